"""redis-py. See README.md."""
import concurrent.futures
import sys
import threading
import time

import redis

port, mode = int(sys.argv[1]), sys.argv[2]
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
plain = redis.Redis(port=port)
r = redis.RedisCluster(host="127.0.0.1", port=port) if mode == "cluster" else plain
add = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
pool = concurrent.futures.ThreadPoolExecutor(1)
ear = r.pubsub(ignore_subscribe_messages=True)
ear.subscribe("py:channel")
while ear.get_message(timeout=10) is not None:  # the confirmation gives None
    pass


def heard():
    """The next message."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        message = ear.get_message(timeout=1)
        if message:
            return message["data"]
    raise TimeoutError("no message")


round_ = 0
while not ended.is_set():
    k = "{py:%d}" % round_
    assert r.incr("py:total") == round_ + 1 and r.rpush("py:log", round_) == round_ + 1
    assert r.set(k + "s", "v", ex=1000) and r.get(k + "s") == b"v" and 0 < r.ttl(k + "s") <= 1000
    assert r.append(k + "s", "w") == 2 and r.getrange(k + "s", 0, 0) == b"v" and r.setbit(k + "bits", 9, 1) == 0 and r.bitcount(k + "bits") == 1
    assert r.incr(k + "n") == 1 and add(keys=[k + "n"], args=[4]) == 5 and r.incrbyfloat(k + "n", 0.5) == 5.5
    assert r.mset({k + "a": "1", k + "b": "2"}) and r.mget(k + "a", k + "b", k + "none") == [b"1", b"2", None]
    r.hset(k + "h", mapping={"f": "1", "g": "2"})
    assert r.hgetall(k + "h") == {b"f": b"1", b"g": b"2"}
    assert r.rpush(k + "l", *range(5)) == 5 and r.lrange(k + "l", 1, 2) == [b"1", b"2"] and r.lpop(k + "l") == b"0"
    assert r.sadd(k + "set", "x", "y") == 2 and r.smembers(k + "set") == {b"x", b"y"} and r.spop(k + "set") in (b"x", b"y")
    assert r.zadd(k + "z", {"m": 1.5, "n": 2}) == 2 and r.zrange(k + "z", 0, -1, withscores=True) == [(b"m", 1.5), (b"n", 2.0)]
    first = r.xadd(k + "x", {"f": "v"})
    assert r.xgroup_create(k + "x", "g", "0") and r.xreadgroup("g", "c", {k + "x": ">"})[0][1] == [(first, {b"f": b"v"})] and r.xack(k + "x", "g", first) == 1
    pipe = r.pipeline(transaction=False) if mode == "standalone" else r.pipeline()
    for i in range(50):
        pipe.set(k + "p%d" % i, i)
        pipe.get(k + "p%d" % i)
    assert pipe.execute()[1::2] == [b"%d" % i for i in range(50)]
    assert len(set(plain.scan_iter(k + "p*", count=1000))) == 50  # a scan may give a key twice
    assert r.delete(*[k + "p%d" % i for i in range(50)]) == 50
    with plain.pipeline() as block:
        assert block.incr(k + "m").rpush(k + "ml", "a").lrange(k + "ml", 0, -1).execute() == [1, 1, [b"a"]]
    with plain.pipeline() as block:
        block.watch(k + "m")
        assert plain.incr(k + "m") == 2  # by another connection
        try:
            block.multi()
            block.set(k + "m", "lost").execute()
            raise AssertionError("a watched key was overwritten")
        except redis.WatchError:
            pass
    waiting = pool.submit(plain.blpop, k + "q", 20)
    assert r.rpush(k + "q", "job") == 1 and waiting.result(20) == ((k + "q").encode(), b"job") and plain.blpop(k + "q", 0.01) is None
    r.publish("py:channel", "%d" % round_)
    assert heard() == b"%d" % round_
    round_ += 1
    print("round %d" % round_, flush=True)
    time.sleep(0.02)
assert r.lrange("py:log", 0, -1) == [b"%d" % i for i in range(round_)] and r.get("py:total") == b"%d" % round_
