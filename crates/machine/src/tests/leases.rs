//! Scenarios of leases and their keys.

use super::check;

#[test]
fn a_lease_is_granted_lengthened_or_refused() {
    check(
        "
        grant 7 60 -> rev=1 id=7 ttl=60
        grant 7 60 -> refused: etcdserver: lease already exists
        grant 8 1 -> rev=1 id=8 ttl=2
        grant 0 60 -> refused: etcdserver: requested lease not found
        grant 9 9000000001 -> refused: etcdserver: too large lease TTL
        leases -> leases 7(60,0) 8(2,0)
        ",
    );
}

#[test]
fn a_key_hangs_on_the_lease_of_its_last_put() {
    check(
        "
        grant 7 60 -> rev=1 id=7 ttl=60
        grant 8 60 -> rev=1 id=8 ttl=60
        put a 1 lease=7 -> rev=2
        put b 1 lease=7 -> rev=3
        put c 1 lease=7 -> rev=4
        leases -> leases 7(60,0 a b c) 8(60,0)
        put a 2 lease=8 -> rev=5
        put b 2 -> rev=6
        del c -> rev=7 deleted=1
        leases -> leases 7(60,0) 8(60,0 a)
        put a 3 ignore_lease prev -> rev=8 prev a=2@c2m5v2L8
        put a ignore_value lease=7 -> rev=9
        get a -> rev=9 count=1 a=3@c2m9v4L7
        leases -> leases 7(60,0 a) 8(60,0)
        restart
        leases -> leases 7(60,0 a) 8(60,0)
        ",
    );
}

#[test]
fn a_revoke_deletes_the_keys_in_one_revision_and_without_keys_none() {
    check(
        "
        grant 7 60 -> rev=1 id=7 ttl=60
        grant 8 60 -> rev=1 id=8 ttl=60
        put c 1 lease=7 -> rev=2
        put a 1 lease=7 -> rev=3
        put b 1 -> rev=4
        revoke 7 -> rev=5
        revoke 7 -> refused: etcdserver: requested lease not found
        revoke 8 -> rev=5
        get a * -> rev=5 count=1 b=1@c4m4v1
        leases -> leases
        put a 1 lease=7 -> refused: etcdserver: requested lease not found
        ",
    );
}

#[test]
fn a_checkpoint_is_stored_whatever_the_version_of_the_cluster() {
    check(
        "
        grant 7 60 -> rev=1 id=7 ttl=60
        checkpoint 7 30 -> rev=1
        checkpoint 9 30 -> rev=1
        leases -> leases 7(60,30)
        restart
        leases -> leases 7(60,30)
        version 3.7.0 -> published
        checkpoint 7 20 -> rev=1
        restart
        leases -> leases 7(60,20)
        ",
    );
}
