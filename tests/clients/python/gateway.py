"""What a Python service does with etcd over HTTP and JSON, through the etcd3gw package.

usage: gateway.py HOST:PORT     with RESTART = a command that kills the server and starts it again
"""

import os
import queue
import subprocess
import sys
import time

import etcd3gw
import requests


def check(what, found, expected=True):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")


def restart():
    subprocess.run(os.environ["RESTART"].split(), check=True)


def keys(client):
    check("put", client.put("kv/a", "1"))
    check("put of bytes", client.put("kv/b", b"\x00\xff"))
    client.put("kw", "next door")
    check("get", (client.get("kv/a"), client.get("kv/none")), ([b"1"], []))
    client.put("kv/a", "2")
    [(value, meta)] = client.get("kv/a", metadata=True)
    check("metadata", (value, meta["key"], meta["version"], int(meta["mod_revision"]) - int(meta["create_revision"])), (b"2", b"kv/a", "2", 3))
    check("prefix", [m["key"] for _, m in client.get_prefix("kv/")], [b"kv/a", b"kv/b"])
    check("descending", [m["key"] for _, m in client.get_prefix("kv/", sort_order="descend", sort_target="key")], [b"kv/b", b"kv/a"])
    check("everything", len(client.get_all()), 3)
    check("delete", (client.delete("kv/a"), client.delete("kv/a")), (True, False))
    check("delete by prefix", (client.delete_prefix("kv/"), client.get_prefix("kv/")), (True, []))
    check("neighbour", client.get("kw"), [b"next door"])


def transactions(client):
    check("create", (client.create("txn/n", "0"), client.create("txn/n", "9")), (True, False))
    check("compare and swap", client.replace("txn/n", "0", "1"))
    check("compare and swap of what is gone", client.replace("txn/n", "0", "2"), False)
    check("value", client.get("txn/n"), [b"1"])


def leases(client):
    ttl = 2
    lease = client.lease(ttl)
    client.put("lease/kept", "x", lease)
    check("its keys", lease.keys(), [b"lease/kept"])
    for _ in range(8):  # twice as long as it was granted for
        time.sleep(0.5)
        asked = time.monotonic()
        check("keepalive", lease.refresh(), ttl)
    check("kept alive", client.get("lease/kept"), [b"x"])
    while client.get("lease/kept"):
        check("the lease expires", time.monotonic() - asked < 8)
        time.sleep(0.02)
    check("not before its time", time.monotonic() - asked >= ttl)
    check("keepalive of what is gone", lease.refresh(), -1)
    lease = client.lease(60)
    client.put("lease/revoked", "x", lease)
    check("time left", 0 < lease.ttl() <= 60)
    check("revoked", (lease.revoke(), client.get("lease/revoked")), (True, []))


def watches(client, address):
    """Events of the past and new ones; after a kill of the server the next watch begins where the last one ended."""
    client.put("watch/a", "1")
    [(_, meta)] = client.get("watch/a", metadata=True)
    start = int(meta["mod_revision"])
    seen = queue.Queue()
    watch = etcd3gw.watch.Watcher(client, "watch/", seen.put, range_end="watch0", start_revision=start, prev_kv=True)

    def event():
        try:
            e = seen.get(timeout=20)
        except queue.Empty:
            sys.exit("no event")
        return (e.get("type", "PUT"), e["kv"]["key"], e["kv"].get("value"), int(e["kv"]["mod_revision"]) - start)

    check("event of the past", event(), ("PUT", b"watch/a", b"1", 0))
    client.put("watch/b", "2")
    check("new event", event(), ("PUT", b"watch/b", b"2", 1))
    restart()
    watch.stop()
    client = connect(address)
    client.put("watch/c", "3")
    client.delete("watch/a")
    watch = etcd3gw.watch.Watcher(client, "watch/", seen.put, range_end="watch0", start_revision=start + 2, prev_kv=True)
    check("resumed", event(), ("PUT", b"watch/c", b"3", 2))
    check("deletion", event(), ("DELETE", b"watch/a", None, 3))
    check("nothing twice", seen.empty())
    watch.stop()
    once = client.watch_once  # waits for one event
    try:
        once("watch/none", timeout=1)
        sys.exit("an event of a key that nobody wrote")
    except etcd3gw.exceptions.WatchTimedOut:
        pass
    events, cancel = client.watch("watch/d")
    client.put("watch/d", "4")
    check("iterator", next(events)["kv"]["value"], b"4")
    cancel()


def locks(client):
    mine, other = client.lock("work", ttl=3), client.lock("work", ttl=30)
    check("free lock", (mine.acquire(), mine.is_acquired()), (True, True))
    check("taken lock", (other.acquire(), other.is_acquired()), (False, False))
    check("refresh", mine.refresh(), 3)
    check("release", (mine.release(), other.acquire(), other.release()), (True, True, True))


def pages(address):
    base = f"http://{address}"
    check("/health", requests.get(f"{base}/health", timeout=5).json()["health"], "true")
    check("/version", set(requests.get(f"{base}/version", timeout=5).json()) >= {"etcdserver", "etcdcluster"})
    refused = requests.post(f"{base}/v3/kv/put", json={"value": "eA=="}, timeout=5)
    check("put without a key", (refused.status_code, refused.json()["code"], refused.json()["message"]), (400, 3, "etcdserver: key is not provided"))
    refused = requests.post(f"{base}/v3/kv/put", data="no JSON", timeout=5)
    check("no JSON", (refused.status_code, refused.json()["code"]), (400, 3))


def connect(address):
    host, port = address.split(":")
    return etcd3gw.client(host=host, port=int(port), timeout=10)


def main():
    address = sys.argv[1]
    client = connect(address)
    check("version", client.status()["version"].startswith("3."))
    check("members", [m["name"] for m in client.members()], ["solo"])
    keys(client)
    print("ok   put, get, delete, prefixes")
    transactions(client)
    print("ok   transactions")
    leases(client)
    print("ok   leases")
    locks(client)
    print("ok   locks")
    watches(client, address)
    print("ok   watches, resumed over a kill of the server")
    pages(address)
    print("ok   pages and refusals")


if __name__ == "__main__":
    main()
