// node-redis. See README.md.
const assert = require('assert').strict;
const { EventEmitter, once } = require('events');
const { createClient, createCluster, WatchError } = require('redis');
const url = `redis://127.0.0.1:${process.argv[2]}`;
let ended = false;
process.stdin.on('end', () => { ended = true; }).resume();
const plain = createClient({ url });
const r = process.argv[3] === 'cluster' ? createCluster({ rootNodes: [{ url }] }) : plain;
const blocker = createClient({ url });
const ear = createClient({ url });
const heard = new EventEmitter();
const messages = [];
const clients = [...new Set([plain, r, blocker, ear])];
for (const c of clients) c.on('error', (e) => { throw e; });
(async () => {
  let round = 0;
  for (const c of clients) await c.connect();
  await ear.subscribe('node:channel', (text) => { messages.push(text); heard.emit('one'); });
  for (; !ended; round++) {
    const k = `{node:${round}}`;
    assert.equal(await r.incr('node:total'), round + 1);
    assert.equal(await r.rPush('node:log', String(round)), round + 1);
    assert.equal(await r.set(k + 's', 'v', { EX: 1000 }), 'OK');
    assert.equal(await r.get(k + 's'), 'v');
    assert.equal(await r.incr(k + 'n'), 1);
    assert.equal(await r.eval("return redis.call('incrby', KEYS[1], ARGV[1])", { keys: [k + 'n'], arguments: ['4'] }), 5);
    assert.deepEqual(await r.mGet([k + 's', k + 'n', k + 'none']), ['v', '5', null]);
    await r.hSet(k + 'h', { f: '1', g: '2' });
    assert.deepEqual({ ...await r.hGetAll(k + 'h') }, { f: '1', g: '2' });
    assert.equal(await r.rPush(k + 'l', ['0', '1', '2']), 3);
    assert.deepEqual(await r.lRange(k + 'l', 1, 2), ['1', '2']);
    assert.equal(await r.sAdd(k + 'set', ['x', 'y']), 2);
    assert.deepEqual([...await r.sMembers(k + 'set')].sort(), ['x', 'y']);
    assert.equal(await r.zAdd(k + 'z', [{ score: 1.5, value: 'm' }]), 1);
    assert.deepEqual((await r.zRangeWithScores(k + 'z', 0, -1)).map((m) => ({ ...m })), [{ value: 'm', score: 1.5 }]);
    const id = await r.xAdd(k + 'x', '*', { f: 'v' });
    assert.equal((await r.xRange(k + 'x', '-', '+'))[0].id, id);
    await Promise.all([...Array(50).keys()].map((i) => r.set(k + 'p' + i, String(i)))); // one pipeline
    assert.deepEqual(await Promise.all([...Array(50).keys()].map((i) => r.get(k + 'p' + i))), [...Array(50).keys()].map(String));
    assert.deepEqual(await r.multi().incr(k + 'm').rPush(k + 'ml', 'a').lRange(k + 'ml', 0, -1).exec(), [1, 1, ['a']]);
    await plain.watch(k + 'm');
    assert.equal(await blocker.incr(k + 'm'), 2);
    await assert.rejects(plain.multi().set(k + 'm', 'lost').exec(), WatchError);
    const waiting = blocker.blPop(k + 'q', 20);
    assert.equal(await r.rPush(k + 'q', 'job'), 1);
    assert.deepEqual({ ...await waiting }, { key: k + 'q', element: 'job' });
    await r.publish('node:channel', String(round));
    if (!messages.length) await once(heard, 'one');
    assert.deepEqual(messages.splice(0), [String(round)]);
    console.log(`round ${round + 1}`);
    await new Promise((done) => { setTimeout(done, 20); });
  }
  assert.deepEqual(await r.lRange('node:log', 0, -1), [...Array(round).keys()].map(String));
  process.exit(0);
})().catch((e) => { console.error(e); process.exit(1); });
