<?php
// A session store: PHP's own sessions in phpredis' save handler, with its locks where it has them. A round is five visitors' pages and one who comes,
// gets another id and leaves. See README.md.
set_error_handler(function ($n, $text) { throw new Exception($text); });
function is($a, $b) { if ($a !== $b) throw new Exception(var_export($a, true) . ", expected " . var_export($b, true)); }
$cluster = $argv[2] == "cluster";
$r = $cluster ? new RedisCluster(NULL, ["127.0.0.1:$argv[1]"]) : new Redis();
if (!$cluster)
	$r->connect("127.0.0.1", (int)$argv[1]);
foreach (["save_handler" => $cluster ? "rediscluster" : "redis", "use_cookies" => "0", "use_only_cookies" => "0", "use_trans_sid" => "0", "cache_limiter" => "", "gc_maxlifetime" => "1440",
	"save_path" => $cluster ? "seed[]=127.0.0.1:$argv[1]&timeout=10&read_timeout=10&prefix=php:session:" : "tcp://127.0.0.1:$argv[1]?prefix=php:session:"] as $name => $value)
	ini_set("session.$name", $value);
ini_set("redis.session.locking_enabled", "1");
ini_set("redis.session.lock_wait_time", "2000");
ini_set("redis.session.lock_retries", "-1");

function page($id)
{
	session_id($id);
	is(session_start(), true);
}

stream_set_blocking(STDIN, false);
for ($round = 0; fread(STDIN, 1) === "" && !feof(STDIN);) {
	for ($v = 0; $v < 5; $v++) {
		page("visitor-$v");
		is($_SESSION["pages"] ?? 0, $round);
		is(array_slice($_SESSION["basket"] ?? [], -1), $round ? ["item " . ($round - 1)] : []);
		$_SESSION["pages"] = $round + 1;
		$_SESSION["basket"] = array_slice(array_merge($_SESSION["basket"] ?? [], ["item $round"]), -20);
		session_write_close();
		is($r->ttl("php:session:visitor-$v") > 1000, true);
	}
	page("guest-$round");
	$_SESSION = ["name" => "guest \0\xff"];
	is(session_regenerate_id(true), true);
	$other = session_id();
	session_write_close();
	is([$r->exists("php:session:guest-$round"), $r->exists("php:session:$other")], [0, 1]);
	page($other);
	is($_SESSION, ["name" => "guest \0\xff"]);
	is(session_destroy(), true);
	is($r->exists("php:session:$other"), 0);
	$round++;
	fwrite(STDOUT, "round $round\n"); // by echo: the headers of a page
	usleep(20000);
}
