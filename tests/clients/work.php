<?php
// phpredis. See README.md. It has no second thread to wait and listen in: what it pops is there, and it only publishes.
function is($a, $b) { if ($a !== $b) throw new Exception(var_export($a, true) . ", expected " . var_export($b, true)); }
$plain = new Redis();
$plain->connect("127.0.0.1", (int)$argv[1]);
$other = new Redis();
$other->connect("127.0.0.1", (int)$argv[1]);
$r = $argv[2] == "cluster" ? new RedisCluster(NULL, ["127.0.0.1:$argv[1]"]) : $plain;
stream_set_blocking(STDIN, false);
for ($round = 0; fread(STDIN, 1) === "" && !feof(STDIN);) {
	$k = "{php:$round}";
	is($r->incr("php:total"), $round + 1);
	is($r->rPush("php:log", "$round"), $round + 1);
	is($r->set($k . "s", "v", ["ex" => 1000]), true);
	is($r->get($k . "s"), "v");
	is($r->incr($k . "n"), 1);
	is($r->eval("return redis.call('incrby', KEYS[1], ARGV[1])", [$k . "n", 4], 1), 5);
	is($r->mset([$k . "a" => "1", $k . "b" => "2"]), true);
	is($r->mget([$k . "a", $k . "b", $k . "none"]), ["1", "2", false]);
	$r->hMSet($k . "h", ["f" => "1", "g" => "2"]);
	is($r->hGetAll($k . "h"), ["f" => "1", "g" => "2"]);
	is($r->rPush($k . "l", "0", "1", "2"), 3);
	is($r->lRange($k . "l", 1, 2), ["1", "2"]);
	is($r->sAdd($k . "set", "x"), 1);
	is($r->sMembers($k . "set"), ["x"]);
	is($r->zAdd($k . "z", 1.5, "m"), 1);
	is($r->zRange($k . "z", 0, -1, true), ["m" => 1.5]);
	$id = $r->xAdd($k . "x", "*", ["f" => "v"]);
	is($r->xRange($k . "x", "-", "+"), [$id => ["f" => "v"]]);
	is($r->del($k . "a", $k . "b", $k . "none"), 2);
	$pipe = $plain->multi(Redis::PIPELINE);
	for ($i = 0; $i < 50; $i++)
		$pipe->incr($k . "p");
	is($pipe->exec(), range(1, 50));
	is($r->multi()->incr($k . "m")->rPush($k . "ml", "a")->lRange($k . "ml", 0, -1)->exec(), [1, 1, ["a"]]);
	$plain->watch($k . "m");
	is($other->incr($k . "m"), 2);
	is($plain->multi()->set($k . "m", "lost")->exec(), false);
	is($r->rPush($k . "q", "job"), 1);
	is($r->blPop([$k . "q"], 5), [$k . "q", "job"]);
	if ($round == 0)
		is($plain->blPop([$k . "q"], 1), []);
	is($plain->publish("php:channel", "$round"), 0);
	$round++;
	echo "round $round\n";
	usleep(20000);
}
is($r->lRange("php:log", 0, -1), array_map("strval", range(0, $round - 1)));
