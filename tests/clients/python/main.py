"""What a Python service does with etcd, through the etcd3 package: keys, transactions, leases, watches, locks.

usage: main.py HOST:PORT     with RESTART = a command that kills the server and starts it again
"""

import os
import subprocess
import sys
import threading
import time

import etcd3
from etcd3 import events, exceptions


def check(what, found, expected=True):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")


def restart():
    subprocess.run(os.environ["RESTART"].split(), check=True)


def again(call, *args, **kwargs):
    """The package does not try again by itself; a program that outlives a server does."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return call(*args, **kwargs)
        except (exceptions.ConnectionFailedError, exceptions.ConnectionTimeoutError, exceptions.NoServerAvailableError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def wait_until(what, limit, holds):
    """Seconds until it holds."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > limit:
            sys.exit(f"not within {limit} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began


def keys(client):
    check("get of nothing", client.get("kv/none"), (None, None))
    first = client.put("kv/a", "1").header.revision
    second = client.put("kv/a", "2", prev_kv=True)
    check("previous value", second.prev_kv.value, b"1")
    value, meta = client.get("kv/a")
    check("value", value, b"2")
    check("revisions", (meta.create_revision, meta.mod_revision, meta.version), (first, first + 1, 2))
    check("in the past", client.get("kv/a", revision=first)[0], b"1")
    client.put("kv/b", b"\x00\xff")
    client.put("kw", "next door")
    check("prefix", [(m.key, v) for v, m in client.get_prefix("kv/")], [(b"kv/a", b"2"), (b"kv/b", b"\x00\xff")])
    check("descending", [m.key for _, m in client.get_prefix("kv/", sort_order="descend")], [b"kv/b", b"kv/a"])
    check("range", [m.key for _, m in client.get_range("kv/a", "kv/b")], [b"kv/a"])
    check("limit", client.get_prefix_response("kv/", limit=1).more)
    check("count", client.get_prefix_response("kv/", count_only=True).count, 2)
    check("delete", (client.delete("kv/a"), client.delete("kv/a")), (True, False))
    check("delete by prefix", client.delete_prefix("kv/").deleted, 1)
    check("neighbour", client.get("kw")[0], b"next door")
    try:
        client.put("", "x")
        sys.exit("a put without a key was accepted")
    except Exception as refused:
        check("put without a key", "etcdserver: key is not provided" in str(refused))


def transactions(client, address):
    client.put("txn/n", "0")
    check("compare and swap", client.replace("txn/n", "0", "1"))
    check("compare and swap of what is gone", client.replace("txn/n", "0", "2"), False)
    check("create", (client.put_if_not_exists("txn/new", "x"), client.put_if_not_exists("txn/new", "y")), (True, False))
    t = client.transactions
    done, answers = client.transaction(
        compare=[t.value("txn/n") == "1", t.version("txn/n") > 1, t.create("txn/none") == 0, t.mod("txn/n") > 1],
        success=[t.put("txn/both", "1"), t.get("txn/both"),
                 t.txn(compare=[t.value("txn/new") == "x"], success=[t.delete("txn/new")], failure=[])],
        failure=[t.get("txn/n")],
    )
    check("transaction", (done, answers[1][0][0]), (True, b"1"))
    check("nested transaction", answers[2].response_txn.succeeded)
    check("what it deleted", client.get("txn/new")[0], None)
    done, answers = client.transaction(compare=[t.value("txn/n") > "5"], success=[], failure=[t.get("txn/n")])
    check("transaction that does not hold", (done, answers[0][0][0]), (False, b"1"))

    def count():
        own = connect(address)
        for _ in range(25):
            while True:
                value, _ = own.get("txn/count")
                if own.replace("txn/count", value, str(int(value) + 1)):
                    break

    client.put("txn/count", "0")
    threads = [threading.Thread(target=count, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check("four that count", client.get("txn/count")[0], b"100")


def leases(client):
    ttl = 2
    lease = client.lease(ttl, lease_id=4242)
    check("lease", (lease.id, lease.ttl, lease.granted_ttl), (4242, ttl, ttl))
    client.put("lease/kept", "x", lease=lease)
    check("its keys", list(lease.keys), [b"lease/kept"])
    for _ in range(8):  # twice as long as it was granted for
        time.sleep(0.5)
        asked = time.monotonic()
        check("keepalive", lease.refresh()[0].TTL, ttl)
    check("kept alive", client.get("lease/kept")[0], b"x")
    wait_until("the lease to expire", 8, lambda: client.get("lease/kept")[0] is None)
    check("not before its time", time.monotonic() - asked >= ttl)
    check("keepalive of what is gone", lease.refresh()[0].TTL, 0)
    check("time left of what is gone", lease.remaining_ttl, -1)

    lease = client.lease(60)
    client.put("lease/revoked", "x", lease=lease)
    restart()
    check("a lease outlives the server", 0 < again(lambda: lease.remaining_ttl) <= 60)
    lease.revoke()
    check("revoked", client.get("lease/revoked")[0], None)


def watches(client):
    """Every event once and in order, although the server dies: the next watch begins where the last one ended."""
    seen, resumed, stop = [], [], threading.Event()

    def follow(revision):
        while not stop.is_set():
            try:
                responses, cancel = client.watch_prefix_response("watch/", start_revision=revision, prev_kv=True)
                for response in responses:
                    for event in response.events:
                        seen.append(event)
                        revision = event.mod_revision + 1
                        if event.key == b"watch/end":
                            cancel()
                            return
            except Exception:
                resumed.append(revision)
                time.sleep(0.05)

    start = client.put("watch/0", "0").header.revision
    for n in range(1, 10):
        client.put(f"watch/{n}", str(n))
    follower = threading.Thread(target=follow, args=(start,), daemon=True)
    follower.start()
    wait_until("ten events of the past", 10, lambda: len(seen) == 10)
    restart()
    for n in range(10, 20):
        again(client.put, f"watch/{n}", str(n))
    client.delete("watch/0")
    client.put("watch/1", "changed")
    client.put("watch/end", "")
    follower.join(20)
    stop.set()
    check("all events", len(seen), 23)
    check("resumed", len(resumed) > 0)
    check("in order", [e.mod_revision for e in seen], sorted({e.mod_revision for e in seen}))
    check("deletion", (isinstance(seen[20], events.DeleteEvent), seen[20].key, seen[20].prev_value), (True, b"watch/0", b"0"))
    check("change", (seen[21].value, seen[21].prev_value, seen[21].version), (b"changed", b"1", 2))

    client.compact(seen[-1].mod_revision, physical=True)
    responses, cancel = client.watch_response("watch/1", start_revision=start)
    try:
        next(responses)
        sys.exit("a watch of what is compacted goes on")
    except exceptions.RevisionCompactedError as refused:
        check("compacted at", refused.compacted_revision, seen[-1].mod_revision)


def locks(client, address):
    mine, other = client.lock("work", ttl=3), connect(address).lock("work", ttl=30)
    check("free lock", (mine.acquire(), mine.is_acquired(), other.is_acquired()), (True, True, False))
    check("taken lock", other.acquire(timeout=0.3), False)
    threading.Timer(0.3, mine.release).start()
    check("released lock", other.acquire(timeout=10))
    check("not mine any more", mine.release(), False)
    check("release", other.release())
    with client.lock("work", ttl=5) as held:
        check("with", held.is_acquired())
    # A holder that is gone loses it when its lease is over.
    check("holder", mine.acquire())
    began = time.monotonic()
    check("a lock expires", other.acquire(timeout=12))
    check("not before its time", time.monotonic() - began > 2)
    other.release()


def connect(address):
    host, port = address.split(":")
    # An endpoint that has failed is not asked again for five minutes unless one says so.
    endpoint = etcd3.Endpoint(host=host, port=int(port), secure=False, time_retry=0.1)
    return etcd3.MultiEndpointEtcd3Client(endpoints=[endpoint], timeout=10, failover=True)


def main():
    address = sys.argv[1]
    client = connect(address)
    check("version", client.status().version.startswith("3."))
    keys(client)
    print("ok   put, get, delete, prefixes")
    transactions(client, address)
    print("ok   transactions")
    leases(client)
    print("ok   leases")
    watches(client)
    print("ok   watches, resumed over a kill of the server")
    locks(client, address)
    print("ok   locks")


if __name__ == "__main__":
    main()
