// valkey-glide. See README.md.
const assert = require('assert').strict;
const { GlideClient, GlideClusterClient, Batch, ClusterBatch, Script, Logger } = require('@valkey/valkey-glide');
const cluster = process.argv[3] === 'cluster';
const addresses = [{ host: '127.0.0.1', port: Number(process.argv[2]) }];
const BatchOf = cluster ? ClusterBatch : Batch;
let ended = false;
process.stdin.on('end', () => { ended = true; }).resume();
Logger.init('error');
const dial = (more) => (cluster ? GlideClusterClient : GlideClient).createClient({ addresses, requestTimeout: 20000, ...more });
(async () => {
  let round = 0;
  const [r, blocker] = [await dial(), await dial()];
  const ear = await dial({ pubsubSubscriptions: { channelsAndPatterns: { 0: new Set(['glide:channel']) } } });
  const add = new Script("return redis.call('incrby', KEYS[1], ARGV[1])");
  for (; !ended; round++) {
    const k = `{glide:${round}}`;
    assert.equal(await r.incr('glide:total'), round + 1);
    assert.equal(await r.rpush('glide:log', [String(round)]), round + 1);
    assert.equal(await r.set(k + 's', 'v', { expiry: { type: 'EX', count: 1000 } }), 'OK');
    assert.equal(await r.get(k + 's'), 'v');
    assert.equal(await r.incr(k + 'n'), 1);
    assert.equal(await r.invokeScript(add, { keys: [k + 'n'], args: ['4'] }), 5);
    assert.equal(await r.mset({ [k + 'a']: '1', [k + 'b']: '2' }), 'OK');
    assert.deepEqual(await r.mget([k + 'a', k + 'b', k + 'none']), ['1', '2', null]);
    assert.equal(await r.hset(k + 'h', { f: '1', g: '2' }), 2);
    assert.equal(await r.hget(k + 'h', 'g'), '2');
    assert.equal((await r.hgetall(k + 'h')).length, 2);
    assert.equal(await r.rpush(k + 'l', ['0', '1', '2']), 3);
    assert.deepEqual(await r.lrange(k + 'l', 1, 2), ['1', '2']);
    assert.equal(await r.sadd(k + 'set', ['x', 'y']), 2);
    assert.deepEqual([...await r.smembers(k + 'set')].sort(), ['x', 'y']);
    assert.equal(await r.zadd(k + 'z', { m: 1.5, n: 2 }), 2);
    assert.equal(await r.zscore(k + 'z', 'm'), 1.5);
    const id = await r.xadd(k + 'x', [['f', 'v']]);
    assert.ok(id && await r.xlen(k + 'x') === 1);
    await Promise.all([...Array(50).keys()].map((i) => r.set(k + 'p' + i, String(i)))); // one pipeline
    assert.deepEqual(await Promise.all([...Array(50).keys()].map((i) => r.get(k + 'p' + i))), [...Array(50).keys()].map(String));
    assert.equal(await r.del([...Array(50).keys()].map((i) => k + 'p' + i)), 50);
    assert.deepEqual(await r.exec(new BatchOf(true).incr(k + 'm').rpush(k + 'ml', ['a']).lrange(k + 'ml', 0, -1), true), [1, 1, ['a']]);
    const waiting = blocker.blpop([k + 'q'], 20);
    assert.equal(await r.rpush(k + 'q', ['job']), 1);
    assert.deepEqual(await waiting, [k + 'q', 'job']);
    await r.publish(String(round), 'glide:channel');
    assert.equal((await ear.getPubSubMessage()).message, String(round));
    console.log(`round ${round + 1}`);
    await new Promise((done) => { setTimeout(done, 20); });
  }
  assert.deepEqual(await r.lrange('glide:log', 0, -1), [...Array(round).keys()].map(String));
  process.exit(0);
})().catch((e) => { console.error(e); process.exit(1); });
