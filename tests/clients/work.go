// go-redis. See README.md.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"reflect"
	"time"

	"gopkg.in/redis.v5"
)

func is(a, b interface{}, err error) {
	if err != nil {
		panic(err)
	}
	if !reflect.DeepEqual(a, b) {
		panic(fmt.Sprintf("%#v, expected %#v", a, b))
	}
}

func strings(n int) []string {
	s := []string{}
	for i := 0; i < n; i++ {
		s = append(s, fmt.Sprint(i))
	}
	return s
}

func main() {
	addr := "127.0.0.1:" + os.Args[1]
	plain := redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: 20 * time.Second})
	var r redis.Cmdable = plain
	pipelined := plain.Pipelined
	block := plain.TxPipelined
	if os.Args[2] == "cluster" {
		cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{addr}, ReadTimeout: 20 * time.Second})
		r, pipelined, block = cluster, cluster.Pipelined, cluster.TxPipelined
	}
	ended := make(chan bool)
	go func() {
		io.Copy(io.Discard, bufio.NewReader(os.Stdin))
		close(ended)
	}()
	add := redis.NewScript("return redis.call('incrby', KEYS[1], ARGV[1])")
	ear, err := plain.Subscribe("go:channel")
	if err != nil {
		panic(err)
	}
	round := 0
	for ; ; round++ {
		select {
		case <-ended:
			all, err := r.LRange("go:log", 0, -1).Result()
			is(all, strings(round), err)
			return
		default:
		}
		work(r, plain, pipelined, block, add, round)
		is(plain.Publish("go:channel", fmt.Sprint(round)).Err(), nil, nil)
		message, err := ear.ReceiveMessage()
		is(message.Payload, fmt.Sprint(round), err)
		fmt.Println("round", round+1)
		time.Sleep(20 * time.Millisecond)
	}
}

type many func(func(*redis.Pipeline) error) ([]redis.Cmder, error)

func work(r redis.Cmdable, plain *redis.Client, pipelined, block many, add *redis.Script, round int) {
	k := fmt.Sprintf("{go:%d}", round)
	n, err := r.Incr("go:total").Result()
	is(n, int64(round+1), err)
	n, err = r.RPush("go:log", round).Result()
	is(n, int64(round+1), err)
	s, err := r.Set(k+"s", "v", 1000*time.Second).Result()
	is(s, "OK", err)
	s, err = r.Get(k + "s").Result()
	is(s, "v", err)
	n, err = r.Incr(k + "n").Result()
	is(n, int64(1), err)
	sum, err := add.Run(r, []string{k + "n"}, 4).Result()
	is(sum, int64(5), err)
	s, err = r.MSet(k+"a", "1", k+"b", "2").Result()
	is(s, "OK", err)
	values, err := r.MGet(k+"a", k+"b", k+"none").Result()
	is(values, []interface{}{"1", "2", nil}, err)
	s, err = r.HMSet(k+"h", map[string]string{"f": "1", "g": "2"}).Result()
	is(s, "OK", err)
	h, err := r.HGetAll(k + "h").Result()
	is(h, map[string]string{"f": "1", "g": "2"}, err)
	n, err = r.RPush(k+"l", 0, 1, 2).Result()
	is(n, int64(3), err)
	list, err := r.LRange(k+"l", 1, 2).Result()
	is(list, []string{"1", "2"}, err)
	n, err = r.SAdd(k+"set", "x").Result()
	is(n, int64(1), err)
	list, err = r.SMembers(k + "set").Result()
	is(list, []string{"x"}, err)
	n, err = r.ZAdd(k+"z", redis.Z{Score: 1.5, Member: "m"}).Result()
	is(n, int64(1), err)
	zs, err := r.ZRangeWithScores(k+"z", 0, -1).Result()
	is(zs, []redis.Z{{Score: 1.5, Member: "m"}}, err)
	_, err = pipelined(func(p *redis.Pipeline) error {
		for i := 0; i < 50; i++ {
			p.Incr(k + "p")
		}
		return nil
	})
	is(nil, nil, err)
	s, err = r.Get(k + "p").Result()
	is(s, "50", err)
	cmds, err := block(func(p *redis.Pipeline) error {
		p.Incr(k + "m")
		p.LRange(k+"l", 0, 0)
		return nil
	})
	is(cmds[0].(*redis.IntCmd).Val(), int64(1), err)
	is(cmds[1].(*redis.StringSliceCmd).Val(), []string{"0"}, nil)
	err = plain.Watch(func(tx *redis.Tx) error {
		plain.Incr(k + "m")
		_, err := tx.Pipelined(func(p *redis.Pipeline) error {
			p.Set(k+"m", "lost", 0)
			return nil
		})
		return err
	}, k+"m")
	is(err, redis.TxFailedErr, nil)
	waiting := make(chan *redis.StringSliceCmd)
	go func() { waiting <- plain.BLPop(15*time.Second, k+"q") }()
	n, err = r.RPush(k+"q", "job").Result()
	is(n, int64(1), err)
	list, err = (<-waiting).Result()
	is(list, []string{k + "q", "job"}, err)
}
