// BullMQ, an application: a queue of jobs of all kinds, worked through by several workers. A round is ten jobs done. See README.md.
const assert = require('assert').strict;
const { Queue, Worker } = require('bullmq');
const { Redis } = require('ioredis');
const port = Number(process.argv[2]);
const connection = { host: '127.0.0.1', port, maxRetriesPerRequest: null };
const options = { connection, prefix: '{bull}' };
const KINDS = [{}, { priority: 3 }, { delay: 50 }, { attempts: 2, backoff: 10 }, { lifo: true }];
let ended = false;
process.stdin.on('end', () => { ended = true; }).resume();
const fail = (e) => { console.error(e); process.exit(1); };
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });
const r = new Redis(connection);
r.on('error', fail);
let done = 0;

async function work(job) {
  if (job.opts.attempts > 1 && job.attemptsMade === 0) throw new Error('the first try of this kind fails');
  await r.hincrby('{bull}:seen', String(job.data.n), 1);
  return job.data.n * 2;
}

async function count(job, result) {
  assert.equal(result, job.data.n * 2);
  if (++done % 10 === 0) console.log(`round ${done / 10}`);
}

(async () => {
  const queue = new Queue('jobs', options);
  const workers = [1, 2].map(() => new Worker('jobs', work, { ...options, concurrency: 4 }));
  let made = 0;
  for (const x of [queue, ...workers]) x.on('error', fail);
  for (const w of workers) w.on('completed', (job, result) => { count(job, result).catch(fail); });
  for (; !ended; made++) {
    await queue.add('job', { n: made }, KINDS[made % KINDS.length]);
    await sleep(10);
  }
  while (done < made) await sleep(20); // a lost one is for ever: whoever started this has a deadline
  for (const w of workers) await w.close();
  const counts = await queue.getJobCounts();
  assert.equal(counts.completed, made);
  assert.equal(counts.failed + counts.active + counts.waiting + counts.delayed + counts.prioritized, 0);
  const seen = await r.hgetall('{bull}:seen');
  assert.deepEqual({ ...seen }, Object.fromEntries([...Array(made).keys()].map((n) => [n, '1'])), 'each job exactly once');
  process.exit(0);
})().catch(fail);
