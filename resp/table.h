/* table.h - the command table: one row says everything about a command, subcommands have rows of their own.
 *
 * The rows are generated data (resp/table_data.c, made by tools/gen-table from live servers' COMMAND and COMMAND DOCS
 * plus our own columns in tools/commands.tsv) for every command of Redis 7.0 to 8.0 and Valkey 8.0 to 9.1. Read-only, so any thread
 * may use it. Nothing outside looks at command names: what depends on a command is a column here. */
#ifndef CROSSFADE_TABLE_H
#define CROSSFADE_TABLE_H

#include <stdint.h>

#include "resp/slice.h"

/* What the follower is sent (design, section 5). */
enum cmd_effect {
	EFFECT_NONE,      /* reads */
	EFFECT_VERBATIM,  /* deterministic: the same bytes */
	EFFECT_REWRITTEN, /* by `rewrite` */
	EFFECT_SNAPSHOT,  /* the written keys become dirty and are copied */
	EFFECT_BROADCAST, /* to every primary: FLUSHALL, SCRIPT LOAD, FUNCTION LOAD */
};

/* How the proxy serves it. */
enum cmd_policy {
	POLICY_FORWARD, /* to the node of its slot; all keys of one slot */
	POLICY_SPLIT,   /* by slot, merged by `merge` */
	POLICY_FANOUT,  /* to every primary, merged by `merge` */
	POLICY_SCAN,    /* SCAN: to one primary after another, the cursor says which */
	POLICY_SLOT,    /* to the node of the slot that the third word names */
	POLICY_PUBLISH, /* to the node of its channel's slot, without one to that of slot 0; the answer counts this proxy's clients */
	POLICY_ALONE,   /* to every primary of both sides, while nothing else is under way (proxy/alone.h); `why`: why it cannot be in MULTI */
	POLICY_LOCAL,   /* answered by the proxy, by `local` */
	POLICY_BLOCK,   /* waits at its slot's owner until the command without waiting, by `local`, has something (proxy/blocking.h) */
	POLICY_REFUSE,  /* by design, `why` says why */
	POLICY_LATER,   /* not there yet: refused, `why` says so (blocking, pub/sub, transactions …) */
};

enum cmd_merge {
	MERGE_NONE,
	MERGE_SUM,    /* DEL, UNLINK, EXISTS, TOUCH */
	MERGE_COUNT,  /* DBSIZE: without our own marker */
	MERGE_ARRAY,  /* MGET: elements back in the order of the request's keys */
	MERGE_ALL_OK, /* MSET, SCRIPT FLUSH …: first error, else the first reply */
	MERGE_FIRST,  /* SCRIPT LOAD, FUNCTION LOAD: first error, else the first reply */
	MERGE_RECEIVERS, /* PUBLISH: our clients instead of our connections */
	MERGE_AND,    /* SCRIPT EXISTS: element-wise minimum */
	MERGE_LISTS,  /* SLOWLOG GET: the nodes' lists, one behind the other */
	MERGE_KEYS,   /* KEYS, CLUSTER GETKEYSINSLOT: all together, without our own keys */
	MERGE_RANDOM, /* RANDOMKEY: one of them */
	MERGE_SCAN,   /* SCAN: one node's keys, and the proxy's own cursor */
};

/* Rule by which a RESP3 reply becomes RESP2 where the generic one is wrong (facts: resp-shapes). */
enum cmd_shape {
	SHAPE_GENERIC,
	SHAPE_NULL_ARRAY,           /* a null reply is *-1: LMPOP, ZMPOP, BLPOP, XREAD … */
	SHAPE_NULL_ARRAY_TIMEOUT,   /* …but a plain null where it does not wait, inside a transaction: BLMOVE, BRPOPLPUSH */
	SHAPE_NULL_ARRAY_COUNT,     /* LPOP, RPOP with a count argument */
	SHAPE_NULL_ARRAY_WITHSCORE, /* ZRANK, ZREVRANK with WITHSCORE */
	SHAPE_NULL_ARRAY_NESTED,    /* GEOPOS: each missing member */
	SHAPE_FLAT_WITHSCORES,      /* pairs become flat if WITHSCORES was given */
	SHAPE_FLAT_WITHVALUES,      /* HRANDFIELD n WITHVALUES */
	SHAPE_FLAT_COUNT,           /* ZPOPMIN, ZPOPMAX with a count argument */
	SHAPE_STREAMS,              /* XREAD, XREADGROUP: map becomes an array of pairs; null is *-1 */
	SHAPE_EXEC,                 /* each element by its own command (proxy/txn.c) */
};

/* Which reply says that nothing changed (then there is no effect). Errors always say so, scripts excepted. */
enum cmd_unchanged {
	UNCHANGED_NEVER,
	UNCHANGED_ZERO,        /* integer 0: DEL, EXPIRE, SREM, PERSIST … (only where 0 proves it: not HSET, not ZADD, not SETBIT, not LPUSHX's…) */
	UNCHANGED_NULL,        /* null: GETDEL, LPOP, SPOP, LMOVE, SET NX */
	UNCHANGED_ZERO_OR_NULL,
	UNCHANGED_EMPTY,       /* null or an empty array: SPOP n, LMPOP, ZPOPMIN */
	UNCHANGED_RULE,        /* only the rewrite rule can tell: SET (GET turns null's meaning round), XREADGROUP, XCLAIM */
};

/* EFFECT_REWRITTEN: the rule, implemented by proxy/effect.c. */
enum cmd_rewrite {
	REWRITE_NONE,
	REWRITE_SET,          /* SET with NX XX GET IFEQ dropped after success */
	REWRITE_TO_SET,       /* SETNX, GETSET → SET k v */
	REWRITE_MSETNX,       /* → MSET */
	REWRITE_TO_DEL,       /* GETDEL, DELIFEQ … → DEL k */
	REWRITE_GETEX,        /* → PEXPIREAT / PERSIST / DEL */
	REWRITE_INCRBYFLOAT,  /* → SET k result KEEPTTL */
	REWRITE_HINCRBYFLOAT, /* → HSET h f result */
	REWRITE_EXPIRE,       /* PEXPIREAT k ms without its condition; DEL if past */
	REWRITE_RESTORE,      /* payload of another version: snapshot of the key */
	REWRITE_SPOP,         /* → SREM k m… */
	REWRITE_LMPOP,        /* → LPOP/RPOP k n on the served key */
	REWRITE_ZMPOP,        /* → ZREM k m… */
	REWRITE_ZPOP,         /* ZPOPMIN, ZPOPMAX → ZREM k m… */
	REWRITE_XADD,         /* * → id; ~ trims: plus XTRIM … or a snapshot */
	REWRITE_XTRIM,        /* ~ trims: snapshot; exact: verbatim */
	REWRITE_XREADGROUP,   /* → XCLAIM …, XGROUP SETID … */
	REWRITE_XCLAIM,       /* XCLAIM, XAUTOCLAIM */
	REWRITE_HEXPIRE,      /* hash-field expiry: HPEXPIREAT, HDEL … */
	REWRITE_HSETEX,
	REWRITE_HGETEX,
	REWRITE_HGETDEL,      /* → HDEL */
	REWRITE_MSETEX,       /* → MSET, or SET … PXAT of each key */
	REWRITE_PFCOUNT,      /* of one key: verbatim; of several: nothing */

	/* EFFECT_VERBATIM, with keys of several slots towards a cluster: what each slot gets (proxy/effect_spread.c). Without one of these the written keys are copied. */
	REWRITE_SPREAD_KEYS,   /* the same command, with the slot's keys: MSET, DEL, UNLINK */
	REWRITE_SPREAD_RENAME, /* DEL of the old name; the new one is copied */
	REWRITE_SPREAD_MOVE,   /* LMOVE, RPOPLPUSH: the pop, and the push of what the reply says */
	REWRITE_SPREAD_SMOVE,  /* SREM and SADD */
	REWRITE_SPREAD_STORE,  /* an empty result: DEL of the destination; others are copied */
};

/* Before the authority sees it: relative expiry made absolute, implemented by proxy/effect.c. */
enum cmd_canonical {
	CANON_NONE,
	CANON_SET,     /* SET … EX|PX → PXAT; also GETEX's options */
	CANON_SETEX,   /* SETEX, PSETEX → SET … PXAT (error texts are those of SETEX) */
	CANON_GETEX,
	CANON_EXPIRE,  /* EXPIRE, PEXPIRE, EXPIREAT → PEXPIREAT */
	CANON_RESTORE, /* RESTORE k ttl → ABSTTL */
	CANON_HEXPIRE, /* HEXPIRE, HPEXPIRE, HEXPIREAT → HPEXPIREAT */
	CANON_HSETEX,
	CANON_HGETEX,
	CANON_MSETEX,
};

/* Commands that the proxy serves in its own way: index of the table in proxy/local.c (POLICY_LOCAL) or proxy/blocking.c (POLICY_BLOCK). */
enum cmd_local {
	LOCAL_NONE, LOCAL_HELLO, LOCAL_PING, LOCAL_ECHO, LOCAL_SELECT, LOCAL_QUIT, LOCAL_RESET, LOCAL_AUTH,
	LOCAL_CLIENT_ID, LOCAL_CLIENT_GETNAME, LOCAL_CLIENT_SETNAME, LOCAL_CLIENT_SETINFO, LOCAL_CLIENT_INFO,
	LOCAL_COMMAND, LOCAL_COMMAND_COUNT, LOCAL_COMMAND_INFO, LOCAL_COMMAND_DOCS, LOCAL_COMMAND_LIST, LOCAL_COMMAND_GETKEYS,
	LOCAL_INFO, LOCAL_TIME, LOCAL_READONLY,
	LOCAL_MULTI, LOCAL_EXEC, LOCAL_DISCARD, LOCAL_WATCH, LOCAL_UNWATCH,
	LOCAL_CLIENT_UNBLOCK, LOCAL_WAIT, LOCAL_WAITAOF, LOCAL_SCRIPT_KILL, LOCAL_CLIENT_PAUSE, LOCAL_CLIENT_UNPAUSE, LOCAL_CLIENT_TRACKING, LOCAL_CLIENT_CACHING,
	LOCAL_BLPOP, LOCAL_BRPOP, LOCAL_BLMPOP, LOCAL_BLMOVE, LOCAL_BRPOPLPUSH, LOCAL_BZPOPMIN, LOCAL_BZPOPMAX, LOCAL_BZMPOP, LOCAL_XREAD, LOCAL_XREADGROUP,
	LOCAL_ROLE, LOCAL_COMMAND_GETKEYSANDFLAGS,
	LOCAL_CLUSTER_SLOTS, LOCAL_CLUSTER_SHARDS, LOCAL_CLUSTER_NODES, LOCAL_CLUSTER_INFO, LOCAL_CLUSTER_MYID, LOCAL_CLUSTER_MYSHARDID,
	LOCAL_CLUSTER_KEYSLOT, LOCAL_CLUSTER_LINKS, LOCAL_CLUSTER_REPLICAS, LOCAL_CLUSTER_REPORTS,
	LOCAL_CLIENT_LIST, LOCAL_CLIENT_KILL, LOCAL_CLIENT_REPLY, LOCAL_CLIENT_NO_EVICT, LOCAL_CLIENT_NO_TOUCH, LOCAL_CLIENT_CAPA, LOCAL_CLIENT_GETREDIR,
	LOCAL_CLIENT_TRACKINGINFO, LOCAL_MONITOR,
	LOCAL_SUBSCRIBE, LOCAL_PSUBSCRIBE, LOCAL_SSUBSCRIBE, LOCAL_UNSUBSCRIBE, LOCAL_PUNSUBSCRIBE, LOCAL_SUNSUBSCRIBE,
	LOCAL_PUBSUB_CHANNELS, LOCAL_PUBSUB_NUMSUB, LOCAL_PUBSUB_NUMPAT, LOCAL_PUBSUB_SHARDCHANNELS, LOCAL_PUBSUB_SHARDNUMSUB,
	LOCAL_ACL_CAT, LOCAL_ACL_DRYRUN, LOCAL_ACL_GENPASS, LOCAL_ACL_GETUSER, LOCAL_ACL_LIST, LOCAL_ACL_LOG, LOCAL_ACL_USERS, LOCAL_ACL_WHOAMI,
};

/* Where the keys are: by the key specifications, or by a function of resp/table.c where arguments decide. */
enum cmd_keys {
	KEYS_SPECS,
	KEYS_SCRIPT, /* EVAL, FCALL: numkeys may be 0 */
	KEYS_SET,
	KEYS_BITFIELD,
	KEYS_SORT,
	KEYS_GEORADIUS,
	KEYS_MIGRATE,
	KEYS_PFMERGE,
	KEYS_STREAMS, /* by the specifications, but of a wrong call none counts where a cluster's node looks for the slot: XREAD, XREADGROUP */
	KEYS_COPY, /* by the specifications; the last key may be in another database */
	KEYS_MOVE, /* …one key, in two databases */
};

/* Flags. The first group is the servers' own, the second ours. */
enum {
	CMD_WRITE = 1 << 0,
	CMD_READONLY = 1 << 1,
	CMD_DENYOOM = 1 << 2,
	CMD_ADMIN = 1 << 3,
	CMD_PUBSUB = 1 << 4,
	CMD_NOSCRIPT = 1 << 5,
	CMD_BLOCKING = 1 << 6,
	CMD_FAST = 1 << 7,
	CMD_NO_MULTI = 1 << 8,
	CMD_NO_AUTH = 1 << 9,
	CMD_MAY_REPLICATE = 1 << 10,
	CMD_MOVABLEKEYS = 1 << 11,
	CMD_CONTAINER = 1 << 12, /* has subcommand rows; itself only answers errors, or a bare form */
	CMD_LOADING = 1 << 13,
	CMD_STALE = 1 << 14,
	CMD_ALLOW_BUSY = 1 << 15,

	CMD_BUILDS = 1 << 20,      /* the result depends on the old value of a written key: never onto an unsynced key */
	CMD_UNPROVEN = 1 << 21,    /* …and the reply does not prove that value was there: race 1, PEXPIRETIME behind it */
	CMD_READS_OTHERS = 1 << 22, /* written keys are computed from other keys (*STORE, COPY, RENAME, LMOVE, SMOVE, BITOP, PFMERGE): all must be synced */
	CMD_SCRIPT = 1 << 23,      /* may write even when it answers an error; may write undeclared keys */
	CMD_BODY = 1 << 25,        /* the word behind the name is a script's body: remembered */
	CMD_SHA = 1 << 26,         /* …is a script's SHA1: loaded where it is missing */
	CMD_UNLOADS = 1 << 27,     /* scripts are forgotten */
	CMD_AT_ONCE = 1 << 28,     /* not queued in MULTI, but done: EXEC, DISCARD, QUIT, RESET … */
	CMD_SECRET = 1 << 19,      /* what follows the word AUTH is a user's name and password */
	CMD_WHILE_SUBSCRIBED = 1 << 29, /* what a RESP2 client may send while it is subscribed */
	CMD_CHANNEL = 1 << 16,     /* the word behind the name is a channel, which the user must be allowed */
	CMD_CHANNELS = 1 << 17,    /* all words are */
	CMD_PATTERNS = 1 << 18,    /* all words are patterns of channels, allowed literally only */
	CMD_SWAPS = 1 << 30,       /* POLICY_ALONE: two databases change places */
	CMD_PROVEN_UNLESS_FRESH = 1 << 24, /* with UNPROVEN: proven after all unless the reply is what a missing key would give (INCR: the increment; APPEND: the length) */
};

/* ACL categories as bits, in the order of cmd_category_names. */
extern const char *const cmd_category_names[]; /* "keyspace", "read", "write", …; NULL at the end */

/* Key specification, as COMMAND INFO gives it. */
enum key_begin { KEY_BEGIN_INDEX, KEY_BEGIN_KEYWORD, KEY_BEGIN_UNKNOWN };
enum key_find { KEY_FIND_RANGE, KEY_FIND_KEYNUM, KEY_FIND_UNKNOWN };
enum { KEY_RO = 1, KEY_RW = 2, KEY_OW = 4, KEY_RM = 8, KEY_ACCESS = 16, KEY_UPDATE = 32, KEY_INSERT = 64, KEY_DELETE = 128,
	KEY_NOT_KEY = 256, KEY_INCOMPLETE = 512, KEY_VARIABLE_FLAGS = 1024,
	KEY_GROUP = 2048 }; /* ours: XREADGROUP changes the consumer group of a key that the servers and their ACLs call RO */
#define KEY_WRITES (KEY_RW | KEY_OW | KEY_RM | KEY_GROUP)

struct key_spec {
	uint16_t flags;
	uint8_t begin, find;
	int16_t begin_pos;         /* KEY_BEGIN_INDEX: position; KEY_BEGIN_KEYWORD: where to start looking (negative: from the end) */
	const char *keyword;
	int16_t a, b, c;           /* RANGE: last, step, limit; KEYNUM: keynumidx, firstkey, step */
};

struct command {
	const char *name;      /* lower case, "config|get" for a subcommand */
	int16_t arity;         /* as the servers count: negative is "at least"; the container's name counts */
	uint32_t flags;
	uint64_t categories;
	uint8_t effect, policy, merge, shape, unchanged, rewrite, canonical, local, keys;
	uint8_t nspecs;
	const struct key_spec *specs;
	const char *why;       /* POLICY_REFUSE and POLICY_LATER */
	const char *since;     /* "redis 1.0.0", "valkey 9.0.0": where it first was */
	uint8_t servers;       /* bits: which of the generator's servers know it (SERVER_*) */
	int16_t arity_7_0;     /* what Redis said of it before 7.2; 0: it did not know it */
	uint16_t id;           /* index in the table: statistics, ACL bitmaps */
};
enum { SERVER_REDIS_7_0 = 1, SERVER_REDIS_8_0 = 2, SERVER_VALKEY_8_0 = 4, SERVER_VALKEY_8_1 = 8, SERVER_VALKEY_9_1 = 16 };

extern const struct command command_table[];
extern const unsigned command_count;

/* One hash of the upper- or lower-case name; NULL if unknown. Of "config get" style commands this is the container. */
const struct command *command_find(struct slice name);
/* The row of a container's subcommand; NULL if unknown. */
const struct command *command_find_sub(const struct command *container, struct slice sub);
static inline bool arity_ok(int arity, uint32_t argc)
{
	return arity >= 0 ? argc == (uint32_t)arity : argc >= (uint32_t)-arity;
}

/* Does argc satisfy the row's arity, which is that of the newest server? */
static inline bool command_arity_ok(const struct command *c, uint32_t argc)
{
	return arity_ok(c->arity, argc);
}

/* Keys of a request: positions and how each is used (KEY_* flags). Variable flags are settled by the arguments (SET … GET,
 * SORT … STORE, GEORADIUS STORE, XREADGROUP, EVAL numkeys …). */
struct key_ref {
	uint32_t index; /* in argv */
	uint32_t flags;
};
/* argv given by callback-free slices; fills at most cap, returns the number of keys there are, or -1 if the arguments are
 * wrong (the server would answer an error: forward it to any node, it will). */
int command_keys(const struct command *c, uint32_t argc, const struct slice *argv, struct key_ref *keys, int cap);
/* Is a call that command_keys() finds keys in, and that is wrong, sent without asking for their slots? So does a cluster's node: the error comes from anywhere. */
bool command_is_unrouted(const struct command *c, uint32_t argc, const struct slice *argv);
/* MOVE, COPY … DB n: index in argv of the word that names the other database; 0: there is none, or the arguments are wrong. */
uint32_t command_other_db(const struct command *c, uint32_t argc, const struct slice *argv);
/* Same for the common case (one key or a plain range, no keyword): index of the first key or 0. No loop: one look at the row. */
static inline uint32_t command_first_key(const struct command *c)
{
	return c->nspecs && c->specs[0].begin == KEY_BEGIN_INDEX && c->specs[0].find == KEY_FIND_RANGE &&
	       !(c->specs[0].flags & KEY_NOT_KEY) ? (uint32_t)c->specs[0].begin_pos : 0;
}

/* The same, if it is certain that there is no other key. */
static inline uint32_t command_sole_key(const struct command *c)
{
	return c->nspecs == 1 && c->specs[0].a == 0 ? command_first_key(c) : 0;
}

#endif
