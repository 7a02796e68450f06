import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.common.exception.CompactedException;
import io.etcd.jetcd.election.LeaderKey;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.PutResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.CompactOption;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.support.CloseableClient;
import io.etcd.jetcd.watch.WatchEvent;
import io.grpc.stub.StreamObserver;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;

/**
 * What a Java service does with etcd, through jetcd: keys, transactions, leases, watches, locks, elections.
 *
 * <p>usage: Main HOST:PORT, with RESTART = a command that kills the server and starts it again
 */
public final class Main {
    private final Client client;
    private final Client other;
    private final KV kv;

    private Main(String address) {
        client = Client.builder().endpoints("http://" + address).build();
        other = Client.builder().endpoints("http://" + address).build();
        kv = client.getKVClient();
    }

    public static void main(String[] arguments) throws Exception {
        Main program = new Main(arguments[0]);
        try {
            program.run("put, get, delete, prefixes", program::keys);
            program.run("transactions", program::transactions);
            program.run("leases", program::leases);
            program.run("watches, resumed over a kill of the server", program::watches);
            program.run("locks", program::locks);
            program.run("elections", program::elections);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
        System.exit(0); // jetcd's threads may outlive its clients
    }

    private interface Part {
        void run() throws Exception;
    }

    private void run(String what, Part part) throws Exception {
        part.run();
        System.out.println("ok   " + what);
    }

    private static ByteSequence bytes(String text) {
        return ByteSequence.from(text, StandardCharsets.UTF_8);
    }

    private static String text(ByteSequence bytes) {
        return bytes.toString(StandardCharsets.UTF_8);
    }

    private static void check(String what, Object found, Object expected) {
        if (!Objects.equals(found, expected)) {
            throw new AssertionError(what + ": found " + found + ", expected " + expected);
        }
    }

    private static <T> T get(Future<T> future) throws Exception {
        return future.get(20, TimeUnit.SECONDS);
    }

    private static void until(String what, int seconds, Callable<Boolean> holds) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
        while (!holds.call()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("not within " + seconds + " s: " + what);
            }
            Thread.sleep(20);
        }
    }

    private static void restart() throws Exception {
        Process process = new ProcessBuilder(System.getenv("RESTART").split(" ")).inheritIO().start();
        check("restart", process.waitFor(), 0);
    }

    private String value(String key) throws Exception {
        List<KeyValue> found = get(kv.get(bytes(key))).getKvs();
        return found.isEmpty() ? null : text(found.get(0).getValue());
    }

    private static List<String> names(GetResponse response) {
        return response.getKvs().stream().map(pair -> text(pair.getKey())).toList();
    }

    private void keys() throws Exception {
        check("nothing", value("kv/none"), null);
        long first = get(kv.put(bytes("kv/a"), bytes("1"))).getHeader().getRevision();
        PutResponse second = get(kv.put(bytes("kv/a"), bytes("2"), PutOption.builder().withPrevKV().build()));
        check("previous value", text(second.getPrevKv().getValue()), "1");
        KeyValue pair = get(kv.get(bytes("kv/a"))).getKvs().get(0);
        check("revisions", List.of(pair.getCreateRevision(), pair.getModRevision(), pair.getVersion()), List.of(first, first + 1, 2L));
        check("in the past", text(get(kv.get(bytes("kv/a"), GetOption.builder().withRevision(first).build())).getKvs().get(0).getValue()), "1");
        get(kv.put(bytes("kv/b"), ByteSequence.from(new byte[] {0, -1})));
        get(kv.put(bytes("kw"), bytes("next door")));
        GetOption prefix = GetOption.builder().isPrefix(true).build();
        check("prefix", names(get(kv.get(bytes("kv/"), prefix))), List.of("kv/a", "kv/b"));
        GetOption last = GetOption.builder().isPrefix(true).withSortField(GetOption.SortTarget.KEY).withSortOrder(GetOption.SortOrder.DESCEND).withLimit(1).build();
        GetResponse limited = get(kv.get(bytes("kv/"), last));
        check("descending, limited", names(limited), List.of("kv/b"));
        check("more", limited.isMore(), true);
        check("count", get(kv.get(bytes("kv/"), GetOption.builder().isPrefix(true).withCountOnly(true).build())).getCount(), 2L);
        check("delete", get(kv.delete(bytes("kv/a"))).getDeleted(), 1L);
        check("delete by prefix", get(kv.delete(bytes("kv/"), DeleteOption.builder().isPrefix(true).build())).getDeleted(), 1L);
        check("neighbour", value("kw"), "next door");
        try {
            get(kv.put(ByteSequence.EMPTY, bytes("x")));
            throw new AssertionError("a put without a key was accepted");
        } catch (ExecutionException refused) {
            check("put without a key", refused.getMessage().contains("etcdserver: key is not provided"), true);
        }
    }

    private boolean swap(Client by, String key, String from, String to) throws Exception {
        return get(by.getKVClient().txn().If(new Cmp(bytes(key), Cmp.Op.EQUAL, CmpTarget.value(bytes(from))))
            .Then(Op.put(bytes(key), bytes(to), PutOption.DEFAULT)).commit()).isSucceeded();
    }

    private void transactions() throws Exception {
        get(kv.put(bytes("txn/n"), bytes("0")));
        check("compare and swap", swap(client, "txn/n", "0", "1"), true);
        check("compare and swap of what is gone", swap(client, "txn/n", "0", "2"), false);
        TxnResponse response = get(kv.txn()
            .If(new Cmp(bytes("txn/n"), Cmp.Op.GREATER, CmpTarget.version(1)), new Cmp(bytes("txn/none"), Cmp.Op.EQUAL, CmpTarget.createRevision(0)))
            .Then(Op.put(bytes("txn/other"), bytes("x"), PutOption.DEFAULT), Op.get(bytes("txn/"), GetOption.builder().isPrefix(true).build()))
            .Else(Op.get(bytes("txn/n"), GetOption.DEFAULT)).commit());
        check("several", response.isSucceeded(), true);
        check("what it read", names(response.getGetResponses().get(0)), List.of("txn/n", "txn/other"));
        response = get(kv.txn().If(new Cmp(bytes("txn/n"), Cmp.Op.LESS, CmpTarget.modRevision(1)))
            .Then(Op.delete(bytes("txn/n"), DeleteOption.DEFAULT)).Else(Op.get(bytes("txn/n"), GetOption.DEFAULT)).commit());
        check("does not hold", text(response.getGetResponses().get(0).getKvs().get(0).getValue()), "1");

        get(kv.put(bytes("txn/count"), bytes("0")));
        List<CompletableFuture<Void>> counting = new ArrayList<>();
        for (Client by : List.of(client, other, client, other)) {
            counting.add(CompletableFuture.runAsync(() -> {
                try {
                    for (int done = 0; done < 25; ) {
                        int n = Integer.parseInt(value("txn/count"));
                        done += swap(by, "txn/count", Integer.toString(n), Integer.toString(n + 1)) ? 1 : 0;
                    }
                } catch (Exception failure) {
                    throw new IllegalStateException(failure);
                }
            }));
        }
        for (CompletableFuture<Void> one : counting) {
            get(one);
        }
        check("four that count", value("txn/count"), "100");
    }

    private void leases() throws Exception {
        // Kept alive by jetcd, three times longer than granted.
        int ttl = 2;
        long id = get(client.getLeaseClient().grant(ttl)).getID();
        get(kv.put(bytes("lease/kept"), bytes("x"), PutOption.builder().withLeaseId(id).build()));
        AtomicInteger kept = new AtomicInteger();
        AtomicReference<Throwable> trouble = new AtomicReference<>();
        CloseableClient keeping = client.getLeaseClient().keepAlive(id, new StreamObserver<LeaseKeepAliveResponse>() {
            @Override
            public void onNext(LeaseKeepAliveResponse response) {
                kept.incrementAndGet();
            }

            @Override
            public void onError(Throwable failure) {
                trouble.set(failure);
            }

            @Override
            public void onCompleted() {}
        });
        Thread.sleep(3000L * ttl);
        check("kept alive", value("lease/kept"), "x");
        check("keepalives", kept.get() >= 2, true);
        check("trouble", trouble.get(), null);
        check("its keys", get(client.getLeaseClient().timeToLive(id, LeaseOption.builder().withAttachedKeys().build())).getKeys(), List.of(bytes("lease/kept")));
        keeping.close();
        check("once", get(client.getLeaseClient().keepAliveOnce(id)).getTTL(), (long) ttl);
        long asked = System.nanoTime();
        until("the lease to expire", 8, () -> value("lease/kept") == null);
        check("not before its time", System.nanoTime() - asked >= TimeUnit.SECONDS.toNanos(ttl) * 0.95, true);

        long other = get(client.getLeaseClient().grant(60)).getID();
        get(kv.put(bytes("lease/revoked"), bytes("x"), PutOption.builder().withLeaseId(other).build()));
        restart();
        until("the server to be found again", 20, () -> "x".equals(value("lease/revoked")));
        long left = get(client.getLeaseClient().timeToLive(other, LeaseOption.DEFAULT)).getTTL();
        check("a lease outlives the server", left > 0 && left <= 60, true);
        get(client.getLeaseClient().revoke(other));
        check("revoked", value("lease/revoked"), null);
    }

    private void watches() throws Exception {
        long start = get(kv.put(bytes("watch/0"), bytes("0"))).getHeader().getRevision();
        List<WatchEvent> seen = new CopyOnWriteArrayList<>();
        AtomicReference<Throwable> trouble = new AtomicReference<>();
        WatchOption option = WatchOption.builder().isPrefix(true).withRevision(start).withPrevKV(true).build();
        Watch.Watcher watcher = client.getWatchClient().watch(bytes("watch/"), option,
            Watch.listener(response -> seen.addAll(response.getEvents()), trouble::set));
        for (int n = 1; n < 10; n++) {
            get(kv.put(bytes("watch/" + n), bytes(Integer.toString(n))));
        }
        until("ten events", 10, () -> seen.size() == 10);
        restart(); // jetcd begins again where it was
        for (int n = 10; n < 20; n++) {
            ByteSequence key = bytes("watch/" + n);
            until("the server to be found again", 20, () -> {
                try {
                    kv.put(key, bytes("x")).get(2, TimeUnit.SECONDS);
                    return true;
                } catch (ExecutionException | TimeoutException failure) {
                    return false;
                }
            });
        }
        get(kv.delete(bytes("watch/0")));
        get(kv.put(bytes("watch/1"), bytes("changed")));
        until("the last event", 20, () -> seen.size() > 0 && "changed".equals(text(seen.get(seen.size() - 1).getKeyValue().getValue())));
        List<Long> revisions = seen.stream().map(event -> event.getKeyValue().getModRevision()).toList();
        check("once and in order", revisions, List.copyOf(new TreeSet<>(revisions)));
        check("all events", seen.size(), 22);
        check("deletion", seen.get(20).getEventType(), WatchEvent.EventType.DELETE);
        check("what was deleted", text(seen.get(20).getPrevKV().getValue()), "0");
        check("what was changed", text(seen.get(21).getPrevKV().getValue()), "1");
        check("the watch was cut", trouble.get() != null, true); // jetcd tells, and goes on
        trouble.set(null);
        watcher.close();

        get(kv.compact(revisions.get(21), CompactOption.builder().withCompactPhysical(true).build()));
        client.getWatchClient().watch(bytes("watch/1"), WatchOption.builder().withRevision(start).build(),
            Watch.listener(response -> {}, trouble::set));
        until("the watch of what is compacted to end", 10, () -> trouble.get() != null);
        check("its reason", trouble.get() instanceof CompactedException, true);
        check("compacted at", ((CompactedException) trouble.get()).getCompactedRevision(), revisions.get(21));
    }

    private void locks() throws Exception {
        long mine = get(client.getLeaseClient().grant(60)).getID();
        long others = get(other.getLeaseClient().grant(60)).getID();
        ByteSequence key = get(client.getLockClient().lock(bytes("work"), mine)).getKey();
        check("the key of the lock", text(key), "work/" + Long.toHexString(mine));
        CompletableFuture<ByteSequence> waiting = other.getLockClient().lock(bytes("work"), others).thenApply(answer -> answer.getKey());
        Thread.sleep(300);
        check("two hold it", waiting.isDone(), false);
        get(client.getLockClient().unlock(key));
        check("the next holds it", text(get(waiting)), "work/" + Long.toHexString(others));
        CompletableFuture<ByteSequence> again = client.getLockClient().lock(bytes("work"), mine).thenApply(answer -> answer.getKey());
        Thread.sleep(200);
        check("two hold it", again.isDone(), false);
        get(other.getLeaseClient().revoke(others)); // whose lease is gone holds no lock
        get(client.getLockClient().unlock(get(again)));
    }

    private void elections() throws Exception {
        ByteSequence office = bytes("office");
        Election election = client.getElectionClient();
        long ann = get(client.getLeaseClient().grant(60)).getID();
        long bob = get(other.getLeaseClient().grant(60)).getID();
        List<String> seen = new CopyOnWriteArrayList<>();
        election.observe(office, new Election.Listener() {
            @Override
            public void onNext(LeaderResponse response) {
                seen.add(text(response.getKv().getValue()));
            }

            @Override
            public void onError(Throwable failure) {
                seen.add(failure.toString());
            }

            @Override
            public void onCompleted() {}
        });
        LeaderKey key = get(election.campaign(office, ann, bytes("ann"))).getLeader();
        until("the observer to see ann", 5, () -> seen.contains("ann"));
        CompletableFuture<LeaderKey> next = other.getElectionClient().campaign(office, bob, bytes("bob")).thenApply(answer -> answer.getLeader());
        get(election.proclaim(key, bytes("ann, again")));
        check("leader", text(get(election.leader(office)).getKv().getValue()), "ann, again");
        until("the observer to see the new value", 5, () -> seen.contains("ann, again"));
        check("two in one office", next.isDone(), false);
        get(election.resign(key));
        LeaderKey second = get(next);
        check("leader", text(get(election.leader(office)).getKv().getValue()), "bob");
        until("the observer to see bob", 5, () -> seen.contains("bob"));
        check("seen", seen, List.of("ann", "ann, again", "bob"));
        get(other.getElectionClient().resign(second));
    }
}
