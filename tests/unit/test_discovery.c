/* What servers say about themselves, as it is read: INFO, CLUSTER SLOTS and NODES, address maps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/address.h"
#include "proxy/discovery_parse.h"

static char buffer[8192];

static struct slice bulk(const char *text)
{
	int n = snprintf(buffer, sizeof(buffer), "$%zu\r\n%s\r\n", strlen(text), text);
	return slice(buffer, (size_t)n);
}

static struct slice raw(const char *text)
{
	return slice(text, strlen(text));
}

static void test_info(void **state)
{
	struct server_info i;

	(void)state;
	assert_true(info_parse(bulk("# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\n# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"
				    "master_replid:ff\r\nmaster_replid2:0000000000000000000000000000000000000000\r\n"
				    "# Keyspace\r\ndb0:keys=10,expires=3,avg_ttl=0\r\ndb9:keys=5,expires=0,avg_ttl=0\r\n"),
			       &i));
	assert_int_equal(i.version, 0x07000f);
	assert_int_equal(i.product, PRODUCT_REDIS);
	assert_int_equal(i.replicas, 2);
	assert_int_equal(i.keys, 15);
	assert_int_equal(i.expires, 3);
	assert_string_equal(i.replid[0], "ff");
	assert_string_equal(i.replid[1], "");
	assert_false(i.cluster || i.replica || i.loading);
	/* Valkey names a Redis version, too, before its own or behind it */
	assert_true(info_parse(bulk("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\ncluster_enabled:1\r\nrole:slave\r\n"), &i));
	assert_int_equal(i.version, 0x090102);
	assert_int_equal(i.product, PRODUCT_VALKEY);
	assert_true(i.cluster && i.replica);
	assert_true(info_parse(bulk("valkey_version:8.0.1\nredis_version:7.2.4\n"), &i));
	assert_int_equal(i.version, 0x080001);
	assert_false(info_parse(raw("-NOPERM no\r\n"), &i));
	assert_false(info_parse(bulk(""), &i));
}

#define ID_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define ID_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define ID_C "cccccccccccccccccccccccccccccccccccccccc"
#define NODE(host, port, id) "*4\r\n" host ":" port "\r\n$40\r\n" id "\r\n*0\r\n"

/* An empty host, a null one and "?" are the host that was asked. */
static void test_slots(void **state)
{
	struct cluster_slots *c = calloc(1, sizeof(*c));

	(void)state;
	assert_true(cluster_slots_parse(raw("*3\r\n*4\r\n:0\r\n:99\r\n" NODE("$0\r\n\r\n", "7000", ID_A) NODE("$1\r\nr\r\n", "7005", ID_C)
					    "*3\r\n:100\r\n:100\r\n" NODE("_\r\n", "7001", ID_B)
					    "*3\r\n:200\r\n:16383\r\n" NODE("$0\r\n\r\n", "7000", ID_A)),
					"asked", c));
	assert_int_equal(c->nnodes, 2); /* replicas do not count */
	assert_string_equal(c->nodes[0].at.host, "asked");
	assert_string_equal(c->nodes[1].at.host, "asked");
	assert_int_equal(c->nodes[1].at.port, 7001);
	assert_int_equal(c->slot_node[99], 0);
	assert_int_equal(c->slot_node[100], 1);
	assert_int_equal(c->slot_node[101], NODE_NONE);
	assert_int_equal(c->slot_node[16383], 0);
	cluster_slots_release(c);
	assert_false(cluster_slots_parse(raw("-ERR This instance has cluster support disabled\r\n"), "asked", c));
	assert_int_equal(c->nnodes, 0);
	cluster_slots_release(c);
	assert_false(cluster_slots_parse(raw("*1\r\n*3\r\n:0\r\n:16384\r\n" NODE("_\r\n", "7001", ID_B)), "asked", c));
	cluster_slots_release(c);
	free(c);
}

/* Primaries without slots may be importing: they are known, too, by hostname if the others are. */
static void test_nodes(void **state)
{
	struct cluster_slots *c = calloc(1, sizeof(*c));

	(void)state;
	assert_true(cluster_slots_parse(raw("*1\r\n*3\r\n:0\r\n:16383\r\n" NODE("$1\r\na\r\n", "7000", ID_A)), "asked", c));
	cluster_nodes_parse(bulk(ID_A " 10.0.0.1:7000@17000,a myself,master - 0 0 1 connected 0-16383 [5->-" ID_B "]\n"
				 ID_B " 10.0.0.2:7001@17001,b,shard-id=x master - 0 0 2 connected\n"
				 ID_C " 10.0.0.3:7002@17002,c master,fail - 0 0 3 disconnected\n"),
			    "asked", c);
	assert_true(c->migrating);
	assert_int_equal(c->nnodes, 2);
	assert_string_equal(c->nodes[1].at.host, "b");
	assert_int_equal(c->nodes[1].at.port, 7001);
	assert_int_equal(c->nmembers, 3);
	assert_string_equal(c->members[0], ID_A);
	assert_string_equal(c->members[2], ID_C);
	cluster_slots_release(c);
	assert_true(cluster_nodes_migrating(bulk(ID_A " :7000@17000 myself,master - 0 0 1 connected 0-5 [5->-" ID_B "]\n")));
	assert_false(cluster_nodes_migrating(bulk(ID_A " :7000@17000 myself,master - 0 0 1 connected 0-5\n")));
	free(c);
}

static void test_claims(void **state)
{
	struct slot_set has, moving;
	unsigned n = 0;

	(void)state;
	assert_true(cluster_nodes_claims(bulk(ID_B " 10.0.0.2:7000@17000 master - 0 0 2 connected 100-16383\n" ID_A
					      " :7000@17000 myself,master - 0 0 1 connected 0-5 7 16383 x 20-16384 [5->-" ID_B "] [93-<-" ID_B "]\n"),
					 &has, &moving));
	FOR_SLOTS (i, &has)
		n += i <= 5 || i == 7 || i == 16383 || i == 20 ? 1 : 1000;
	assert_int_equal(n, 9); /* what is no range is its first slot */
	n = 0;
	FOR_SLOTS (i, &moving)
		n += i == 5 || i == 93 ? 1 : 1000;
	assert_int_equal(n, 2);
	assert_false(cluster_nodes_claims(bulk(ID_B " 10.0.0.2:7000@17000 master - 0 0 2 connected 100-16383\n"), &has, &moving));
	assert_false(cluster_nodes_claims(SLICE_LIT("-NOPERM no\r\n"), &has, &moving));
}

static void test_time(void **state)
{
	(void)state;
	assert_true(time_parse(raw("*2\r\n$10\r\n1700000000\r\n$3\r\n123\r\n")) == INT64_C(1700000000000123));
	assert_true(time_parse(raw("-ERR\r\n")) == 0);
}

static void expect_map(const struct address_map *m, const char *host, uint16_t port, const char *name)
{
	struct host_port hp = { .port = port };
	char got[ADDRESS_NAME_MAX];

	snprintf(hp.host, sizeof(hp.host), "%s", host);
	address_map(m, &hp);
	address_name(got, sizeof(got), hp.host, hp.port);
	assert_string_equal(got, name);
}

static void test_address_map(void **state)
{
	struct address_map m = { 4, calloc(4, sizeof(*m.pairs)) };

	(void)state;
	strcpy(m.pairs[0].from, "172.17.0.2");
	strcpy(m.pairs[0].to, "10.0.0.5");
	strcpy(m.pairs[1].from, "172.17.0.2:6379");
	strcpy(m.pairs[1].to, "10.0.0.6:16379");
	strcpy(m.pairs[2].from, "[fd00::1]:7");
	strcpy(m.pairs[2].to, "localhost:8");
	strcpy(m.pairs[3].from, "inner");
	strcpy(m.pairs[3].to, "fd00::2");
	expect_map(&m, "172.17.0.2", 6379, "10.0.0.6:16379"); /* host and port win */
	expect_map(&m, "172.17.0.2", 6380, "10.0.0.5:6380");
	expect_map(&m, "fd00::1", 7, "localhost:8");
	expect_map(&m, "inner", 9, "[fd00::2]:9");
	expect_map(&m, "other", 9, "other:9");
	free(m.pairs);
}

static void test_address_split(void **state)
{
	struct host_port hp;

	(void)state;
	assert_true(address_split("[::1]:7", 7, &hp) && strcmp(hp.host, "::1") == 0 && hp.port == 7);
	assert_true(address_split("::1:7", 5, &hp) && strcmp(hp.host, "::1") == 0 && hp.port == 7);
	assert_true(address_split(":7", 2, &hp) && hp.host[0] == '\0');
	assert_false(address_split("a", 1, &hp));
	assert_false(address_split("a:0", 3, &hp));
	assert_false(address_split("a:65536", 7, &hp));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_info),	   cmocka_unit_test(test_slots),       cmocka_unit_test(test_nodes),
		cmocka_unit_test(test_time),	   cmocka_unit_test(test_address_map), cmocka_unit_test(test_address_split),
		cmocka_unit_test(test_claims),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
