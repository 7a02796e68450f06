"""gRPC's C core (Python, Ruby, PHP and C++ have it) with the targets and names that it can be given: put, get, watch,
lease over each. What such a client sends as `:authority` is often no authority of a URI; etcd serves all of them.

usage: core.py HOST:PORT
"""

import sys

import grpc
from etcd3.etcdrpc import rpc_pb2 as rpc
from etcd3.etcdrpc import rpc_pb2_grpc as services

LIMIT = 5  # seconds a call


def check(what, found, expected):
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}")


def ways(address):
    """Name, target, channel options, compression."""
    host, port = address.split(":")
    plain = grpc.Compression.NoCompression
    names = ["localhost", "#initially=[" + address + "]", "etcd cluster", "a,b,c", "/run/x.sock", "%2Frun%2Fx.sock",
             "http://" + address, "one/two", "user@" + address]
    return [
        ("host and port", address, [], plain),
        ("dns:", f"dns:///localhost:{port}", [], plain),
        ("ipv4:", f"ipv4:{address}", [], plain),
        ("ipv4:, two addresses", f"ipv4:{address},{address}", [], plain),
        ("ipv4:, three addresses, one that nobody listens at", f"ipv4:127.0.0.1:1,{address},{address}", [], plain),
        ("ipv4:, two addresses, round robin", f"ipv4:{address},{address}", [("grpc.lb_policy_name", "round_robin")], plain),
        *((f"default authority {name!r}", address, [("grpc.default_authority", name)], plain) for name in names),
        ("gzip", address, [], grpc.Compression.Gzip),
        ("gzip, two addresses", f"ipv4:{address},{address}", [], grpc.Compression.Gzip),
    ]


def steps(channel, prefix):
    kv, leases, watches = services.KVStub(channel), services.LeaseStub(channel), services.WatchStub(channel)
    value = b"v" * 4096
    lease = leases.LeaseGrant(rpc.LeaseGrantRequest(TTL=60), timeout=LIMIT).ID
    put = kv.Put(rpc.PutRequest(key=prefix + b"a", value=value, lease=lease), timeout=LIMIT)
    found = kv.Range(rpc.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0"), timeout=LIMIT)
    check("get", [(pair.key, pair.value, pair.lease) for pair in found.kvs], [(prefix + b"a", value, lease)])
    create = rpc.WatchCreateRequest(key=prefix, range_end=prefix[:-1] + b"0", start_revision=put.header.revision)
    answers = watches.Watch(iter([rpc.WatchRequest(create_request=create)]), timeout=LIMIT)
    check("watch", next(answers).created, True)
    check("event", [event.kv.key for event in next(answers).events], [prefix + b"a"])
    answers.cancel()
    kept = leases.LeaseKeepAlive(iter([rpc.LeaseKeepAliveRequest(ID=lease)]), timeout=LIMIT)
    check("keepalive", next(kept).TTL, 60)
    leases.LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease), timeout=LIMIT)
    check("revoked", kv.Range(rpc.RangeRequest(key=prefix + b"a"), timeout=LIMIT).count, 0)


def refused(channel, _):
    """An encoding that the server does not know is refused by its name, for a small message too, which the core leaves as it
    is."""
    kv = services.KVStub(channel)
    for value in b"", b"v" * 4096:
        try:
            kv.Put(rpc.PutRequest(key=b"core/deflate", value=value), timeout=LIMIT)
        except grpc.RpcError as error:
            check("code", error.code(), grpc.StatusCode.UNIMPLEMENTED)
            check("text", error.details(), 'grpc: Decompressor is not installed for grpc-encoding "deflate"')
        else:
            raise AssertionError(f"a put of {len(value)} bytes with deflate was accepted")


def main():
    failed = False
    tried = [(*way, steps, "put, get, watch, lease") for way in ways(sys.argv[1])]
    tried.append(("deflate", sys.argv[1], [], grpc.Compression.Deflate, refused, "refused"))
    for number, (name, target, options, compression, do, done) in enumerate(tried):
        # One connection a channel: the core would share those that look alike.
        options = [*options, ("grpc.use_local_subchannel_pool", 1)]
        try:
            with grpc.insecure_channel(target, options=options, compression=compression) as channel:
                do(channel, f"core/{number}/".encode())
            print(f"ok   {name}: {done}")
        except (grpc.RpcError, AssertionError) as error:
            failed = True
            told = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.RpcError) else error
            print(f"FAIL {name}: {told}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
