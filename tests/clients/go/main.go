// What a Go service does with etcd, through one version of clientv3: put, get, watch, lease. The versions do not go
// into one module, so each has a go.mod of its own in a folder beside this file, and run.sh puts the two together.
//
//	usage: main HOST:PORT    with RESTART = a command that kills the server and starts it again
//
// Each way to connect is tried in turn: with one endpoint and with three, plain, with gzip, and with a user name
// although authentication is off. A line for each says what the client could not do, and the exit code whether any
// could not.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding/gzip"
)

// For everything that one way of connecting does: a client that cannot connect tries until this is over.
const limit = 10 * time.Second

// More than a dial and a request with each of three endpoints need.
const dialLimit = 3 * time.Second

type way struct {
	name      string
	endpoints []string
	change    func(*clientv3.Config)
}

func ways(address string) []way {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	// One server under three names, as clients with several endpoints see three.
	three := []string{address, "localhost:" + port, "http://" + address}
	plain := func(*clientv3.Config) {}
	compressed := func(c *clientv3.Config) {
		c.DialOptions = append(c.DialOptions, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	}
	named := func(c *clientv3.Config) { c.Username, c.Password = "somebody", "secret" }
	return []way{
		{"one endpoint", []string{address}, plain},
		{"one endpoint with its scheme", []string{"http://" + address}, plain},
		{"three endpoints", three, plain},
		{"gzip", []string{address}, compressed},
		{"gzip, three endpoints", three, compressed},
		{"user name", []string{address}, named},
		{"user name, three endpoints", three, named},
	}
}

func main() {
	failed := false
	for number, way := range ways(os.Args[1]) {
		if err := try(way, fmt.Sprintf("way/%d/", number)); err != nil {
			fmt.Printf("FAIL %s: %v\n", way.name, err)
			failed = true
		} else {
			fmt.Printf("ok   %s: put, get, watch, lease\n", way.name)
		}
	}
	if err := overKill(os.Args[1]); err != nil {
		fmt.Printf("FAIL a kill of the server: %v\n", err)
		failed = true
	} else {
		fmt.Println("ok   a kill of the server: the watch goes on, the lease is kept")
	}
	if failed {
		os.Exit(1)
	}
}

func connect(way way) (*clientv3.Client, error) {
	config := clientv3.Config{Endpoints: way.endpoints, DialTimeout: dialLimit}
	way.change(&config)
	return clientv3.New(config)
}

func try(way way, prefix string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	client, err := connect(way)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer client.Close()
	steps := []struct {
		name string
		do   func(context.Context, *clientv3.Client, string) error
	}{{"put", put}, {"get", get}, {"watch", watch}, {"lease", lease}}
	for _, step := range steps {
		if err := step.do(ctx, client, prefix); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// 4 KiB of one letter: what is compressed must be smaller than what is not, and come out the same.
var value = strings.Repeat("v", 4096)

func put(ctx context.Context, client *clientv3.Client, prefix string) error {
	_, err := client.Put(ctx, prefix+"a", value)
	return err
}

func get(ctx context.Context, client *clientv3.Client, prefix string) error {
	answer, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if len(answer.Kvs) != 1 || string(answer.Kvs[0].Value) != value {
		return fmt.Errorf("found %d keys, not the one that was put", len(answer.Kvs))
	}
	return nil
}

// One event of the past and one that happens meanwhile.
func watch(ctx context.Context, client *clientv3.Client, prefix string) error {
	answer, err := client.Get(ctx, prefix+"a")
	if err != nil {
		return err
	}
	since := answer.Kvs[0].ModRevision
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(since))
	if err := next(events, prefix+"a"); err != nil {
		return err
	}
	if _, err := client.Put(ctx, prefix+"b", value); err != nil {
		return err
	}
	return next(events, prefix+"b")
}

// next takes one event, which must be of the key.
func next(events clientv3.WatchChan, key string) error {
	for answer := range events {
		if err := answer.Err(); err != nil {
			return err
		}
		for _, event := range answer.Events {
			if string(event.Kv.Key) != key {
				return fmt.Errorf("an event of %s instead of %s", event.Kv.Key, key)
			}
			return nil
		}
	}
	return fmt.Errorf("no event of %s", key)
}

func lease(ctx context.Context, client *clientv3.Client, prefix string) error {
	granted, err := client.Grant(ctx, 60)
	if err != nil {
		return err
	}
	if _, err := client.Put(ctx, prefix+"leased", "", clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	kept, err := client.KeepAlive(ctx, granted.ID)
	if err != nil {
		return err
	}
	if answer, open := <-kept; !open || answer.TTL != 60 {
		return fmt.Errorf("keepalive: %v", answer)
	}
	left, err := client.TimeToLive(ctx, granted.ID, clientv3.WithAttachedKeys())
	if err != nil {
		return err
	}
	if len(left.Keys) != 1 {
		return fmt.Errorf("%d keys on the lease, not one", len(left.Keys))
	}
	if _, err := client.Revoke(ctx, granted.ID); err != nil {
		return err
	}
	answer, err := client.Get(ctx, prefix+"leased")
	if err != nil {
		return err
	}
	if len(answer.Kvs) != 0 {
		return fmt.Errorf("the key outlives its lease")
	}
	return nil
}

// A client that is connected when the server is killed connects again by itself.
func overKill(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	client, err := connect(ways(address)[0])
	if err != nil {
		return err
	}
	defer client.Close()
	granted, err := client.Grant(ctx, 60)
	if err != nil {
		return err
	}
	events := client.Watch(ctx, "killed/", clientv3.WithPrefix())
	if _, err := client.Put(ctx, "killed/before", "", clientv3.WithLease(granted.ID)); err != nil {
		return err
	}
	if err := next(events, "killed/before"); err != nil {
		return err
	}
	restart := strings.Fields(os.Getenv("RESTART"))
	if out, err := exec.Command(restart[0], restart[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %s", err, out)
	}
	for {
		if _, err = client.Put(ctx, "killed/after", ""); err == nil {
			break
		}
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := next(events, "killed/after"); err != nil {
		return err
	}
	_, err = client.KeepAliveOnce(ctx, granted.ID)
	return err
}
