# redis-rb. See README.md.
require 'redis'
def is(a, b) a == b or raise "#{a.inspect}, expected #{b.inspect}" end
Thread.abort_on_exception = true
ended = false
Thread.new { STDIN.read; ended = true }
url = "redis://127.0.0.1:#{ARGV[0]}"
dial = -> { Redis.new(url: url, timeout: 20) }
plain, blocker = dial.call, dial.call
r = ARGV[1] == 'cluster' ? Redis.new(cluster: [url]) : plain
ready, messages = Queue.new, Queue.new
Thread.new do
  dial.call.subscribe('ruby:channel') do |on|
    on.subscribe { ready << true }
    on.message { |_, text| messages << text }
  end
end
ready.pop
round = 0
until ended
  k = "{ruby:#{round}}"
  is r.incr('ruby:total'), round + 1
  is r.rpush('ruby:log', round), round + 1
  is r.set(k + 's', 'v', ex: 1000), 'OK'
  is r.get(k + 's'), 'v'
  is r.incr(k + 'n'), 1
  is r.eval("return redis.call('incrby', KEYS[1], ARGV[1])", keys: [k + 'n'], argv: [4]), 5
  is r.mset(k + 'a', '1', k + 'b', '2'), 'OK'
  is r.mget(k + 'a', k + 'b', k + 'none'), ['1', '2', nil]
  r.hset(k + 'h', 'f', '1', 'g', '2')
  is r.hgetall(k + 'h'), { 'f' => '1', 'g' => '2' }
  is r.rpush(k + 'l', (0..4).to_a), 5
  is r.lrange(k + 'l', 1, 2), %w[1 2]
  is r.sadd(k + 'set', %w[x y]), 2
  is r.smembers(k + 'set').sort, %w[x y]
  is r.zadd(k + 'z', [[1.5, 'm'], [2, 'n']]), 2
  is r.zrange(k + 'z', 0, -1, with_scores: true), [['m', 1.5], ['n', 2.0]]
  id = r.xadd(k + 'x', { 'f' => 'v' })
  is r.xrange(k + 'x'), [[id, { 'f' => 'v' }]]
  is r.pipelined { |p| 20.times { |i| p.set(k + "p#{i}", i) } }.uniq, ['OK']
  is r.del((0..19).map { |i| k + "p#{i}" }), 20
  is plain.multi { |t| t.incr(k + 'm'); t.rpush(k + 'ml', 'a'); t.lrange(k + 'ml', 0, -1) }, [1, 1, ['a']]
  lost = plain.watch(k + 'm') do
    blocker.incr(k + 'm')
    plain.multi { |t| t.set(k + 'm', 'lost') }
  end
  is lost, nil
  waiting = Thread.new { blocker.blpop(k + 'q', timeout: 15) }
  is r.rpush(k + 'q', 'job'), 1
  is waiting.value, [k + 'q', 'job']
  plain.publish('ruby:channel', round.to_s)
  is messages.pop, round.to_s
  round += 1
  puts "round #{round}"
  STDOUT.flush
  sleep 0.02
end
is r.lrange('ruby:log', 0, -1), (0...round).map(&:to_s)
