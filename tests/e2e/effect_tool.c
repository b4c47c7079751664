/* effect_tool.c - proxy/effect.h behind a pipe, for test_effects.py: a request in RESP on stdin, its reply on stdout.
 *
 *   canonical NOW AUTHORITY word …             [command known, canonical, words as a request, probe or ""]
 *   effect NOW FOLLOWER REPLY PROBE word …     [kind, block, ncommands, expect, expect_n, expect_digest, whole, unproven, traits,
 *                                               digest of REPLY, [written keys]]
 *   digest REPLY                               integer */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "proxy/effect.h"
#include "resp/convert.h"
#include "resp/digits.h"
#include "resp/parse.h"
#include "resp/write.h"

#define WORDS_MAX 65536

static const struct command *row_of(uint32_t argc, const struct slice *argv)
{
	const struct command *cmd = argc ? command_find(argv[0]) : NULL;
	const struct command *sub = cmd && argc > 1 ? command_find_sub(cmd, argv[1]) : NULL;

	return sub ? sub : cmd;
}

static int64_t number(struct slice word)
{
	int64_t n = 0;

	resp_string_to_int(word.p, word.n, &n);
	return n;
}

static sds canonical(sds out, uint32_t argc, const struct slice *argv)
{
	struct effect_call call = { .cmd = row_of(argc - 3, argv + 3), .argc = argc - 3, .argv = argv + 3, .now_ms = number(argv[1]),
				    .authority = (uint8_t)number(argv[2]) };
	const struct command *cmd = call.cmd;
	sds request = sdsempty(), probe = sdsempty();
	bool changed = false;

	if (cmd && command_arity_ok(cmd, call.argc)) {
		changed = effect_canonical(&call, &request, &cmd);
		effect_probe(&call, &probe);
	}
	out = resp_cat_len(out, '*', 4);
	out = resp_cat_len(out, ':', cmd != NULL);
	out = resp_cat_len(out, ':', changed);
	out = resp_cat_bulk(out, slice(request, sdslen(request)));
	out = resp_cat_bulk(out, slice(probe, sdslen(probe)));
	sdsfree(request);
	sdsfree(probe);
	return out;
}

static sds written_keys(sds out, const struct effect_call *call)
{
	struct key_ref keys[256];
	int n = command_keys(call->cmd, call->argc, call->argv, keys, 256), written = 0;

	for (int i = 0; i < n && i < 256; i++)
		written += (keys[i].flags & KEY_WRITES) != 0;
	out = resp_cat_len(out, '*', written);
	for (int i = 0; i < n && i < 256; i++)
		if (keys[i].flags & KEY_WRITES)
			out = resp_cat_bulk(out, call->argv[keys[i].index]);
	return out;
}

static sds effect(sds out, uint32_t argc, const struct slice *argv)
{
	struct effect_call call = { .cmd = row_of(argc - 5, argv + 5), .argc = argc - 5, .argv = argv + 5, .now_ms = number(argv[1]),
				    .follower = (uint8_t)number(argv[2]), .probe = argv[4] };
	struct effect e = { 0 };

	if (!call.cmd || !command_arity_ok(call.cmd, call.argc))
		return resp_cat_error(out, "ERR unknown command");
	effect_of(&call, argv[3], &e);
	out = resp_cat_len(out, '*', 11);
	out = resp_cat_len(out, ':', e.kind);
	out = resp_cat_bulk(out, slice(e.block ? e.block : "", e.block ? sdslen(e.block) : 0));
	out = resp_cat_len(out, ':', e.ncommands);
	out = resp_cat_len(out, ':', e.expect);
	out = resp_cat_len(out, ':', e.expect_n);
	out = resp_cat_len(out, ':', (int64_t)e.expect_digest);
	out = resp_cat_len(out, ':', e.whole);
	out = resp_cat_len(out, ':', e.unproven);
	out = resp_cat_len(out, ':', effect_traits(&call));
	out = resp_cat_len(out, ':', (int64_t)resp_reply_digest(argv[3]));
	out = written_keys(out, &call);
	sdsfree(e.block);
	return out;
}

static sds answer(sds out, uint32_t argc, const struct slice *argv)
{
	if (argc >= 4 && slice_is(argv[0], "canonical"))
		return canonical(out, argc, argv);
	if (argc >= 6 && slice_is(argv[0], "effect"))
		return effect(out, argc, argv);
	if (argc == 2 && slice_is(argv[0], "digest"))
		return resp_cat_len(out, ':', (int64_t)resp_reply_digest(argv[1]));
	return resp_cat_error(out, "ERR usage: canonical, effect or digest");
}

int main(void)
{
	static struct slice argv[WORDS_MAX];
	struct resp_request r;
	sds in = sdsempty();
	ssize_t n;

	resp_request_init(&r, &resp_default_limits);
	for (;;) {
		enum resp_status status = resp_request_parse(&r, in, sdslen(in));

		if (status == RESP_BAD || (status == RESP_OK && r.argc > WORDS_MAX)) {
			fprintf(stderr, "effect_tool: %s\n", status == RESP_BAD ? r.error : "too many words");
			return 1;
		}
		if (status == RESP_OK) {
			for (uint32_t i = 0; i < r.argc; i++)
				argv[i] = resp_request_arg(&r, in, i);
			sds out = answer(sdsempty(), r.argc, argv);
			fwrite(out, 1, sdslen(out), stdout);
			fflush(stdout);
			sdsfree(out);
			sdsrange(in, (int)r.used, -1);
			resp_request_reset(&r);
			continue;
		}
		in = sdsMakeRoomFor(in, 65536);
		n = read(0, in + sdslen(in), 65536);
		if (n <= 0)
			break;
		sdsIncrLen(in, (int)n);
	}
	resp_request_release(&r);
	sdsfree(in);
	return 0;
}
