// What a Node service does with etcd, through the etcd3 package: keys, transactions, leases, watches, locks, elections.
//
// usage: main.mjs HOST:PORT     with RESTART = a command that kills the server and starts it again

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import etcd3 from 'etcd3';

const { Etcd3, EtcdLockFailedError } = etcd3;
// The package has these as a constant enum, which only TypeScript sees.
const Isolation = { SerializableSnapshot: 0, Serializable: 1, RepeatableReads: 2 };

const address = process.argv[2];
const clients = [];

function connect() {
  const client = new Etcd3({ hosts: `http://${address}` });
  clients.push(client);
  return client;
}

async function restart() {
  const [command, ...args] = process.env.RESTART.split(' ');
  await promisify(execFile)(command, args);
}

/** Waits until it holds; milliseconds that it took. */
async function until(what, limit, holds) {
  const began = Date.now();
  while (!(await holds())) {
    assert(Date.now() - began < limit, `not within ${limit} ms: ${what}`);
    await sleep(20);
  }
  return Date.now() - began;
}

/** The package does not try again what may have been done; a program that knows better does. */
async function again(call) {
  const began = Date.now();
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (Date.now() - began > 20_000) throw error;
      await sleep(50);
    }
  }
}

async function keys(client) {
  assert.equal(await client.get('kv/none'), null);
  const first = await client.put('kv/a').value('1');
  const second = await client.put('kv/a').value('2').getPrevious();
  assert.equal(second.value.toString(), '1');
  const [kv] = (await client.get('kv/a').exec()).kvs;
  assert.deepEqual([kv.create_revision, kv.mod_revision, kv.version], [first.header.revision, String(+first.header.revision + 1), '2']);
  assert.equal(await client.get('kv/a').revision(first.header.revision).string(), '1');
  await client.put('kv/b').value(Buffer.from([0, 255]));
  await client.put('kw').value('next door');
  assert.deepEqual(await client.getAll().prefix('kv/').keys(), ['kv/a', 'kv/b']);
  assert.deepEqual(await client.getAll().prefix('kv/').sort('Key', 'Descend').limit(1).keys(), ['kv/b']);
  assert.deepEqual(await client.get('kv/b').buffer(), Buffer.from([0, 255]));
  assert.equal(await client.getAll().prefix('kv/').count(), 2);
  assert.equal(await client.get('kv/a').exists(), true);
  const inside = client.namespace('kv/');
  assert.deepEqual(await inside.getAll().strings(), { a: '2', b: '\0\ufffd' });
  assert.equal((await client.delete().key('kv/a').getPrevious())[0].value.toString(), '2');
  assert.equal((await client.delete().prefix('kv/')).deleted, '1');
  assert.equal(await client.get('kw').string(), 'next door');
  await assert.rejects(async () => { await client.put('').value('x'); }, /key is not provided/);
}

async function transactions(client) {
  await client.put('txn/n').value('0');
  const swap = (from, to) => client.if('txn/n', 'Value', '==', from).then(client.put('txn/n').value(to)).else(client.get('txn/n')).commit();
  assert.equal((await swap('0', '1')).succeeded, true);
  const lost = await swap('0', '2');
  assert.deepEqual([lost.succeeded, lost.responses[0].response_range.kvs[0].value.toString()], [false, '1']);
  const create = () => client.if('txn/new', 'Create', '==', 0).then(client.put('txn/new').value('x')).commit();
  assert.deepEqual([(await create()).succeeded, (await create()).succeeded], [true, false]);
  const several = await client.if('txn/n', 'Version', '>', 1).and('txn/none', 'Mod', '==', 0)
    .then(client.delete().key('txn/new'), client.put('txn/other').value('y'), client.getAll().prefix('txn/')).commit();
  assert.deepEqual(several.responses[2].response_range.kvs.map(kv => kv.key.toString()), ['txn/n', 'txn/other']);

  // The package's transactional memory, at each level: four that count.
  for (const isolation of [Isolation.SerializableSnapshot, Isolation.Serializable, Isolation.RepeatableReads]) {
    await client.put('txn/count').value('0');
    await Promise.all([1, 2, 3, 4].map(async () => {
      const own = connect();
      for (let i = 0; i < 5; i++) {
        await own.stm({ isolation, retries: 1000 }).transact(async tx => {
          await tx.put('txn/count').value(+(await tx.get('txn/count').string()) + 1);
        });
      }
    }));
    assert.equal(await client.get('txn/count').number(), 20, `isolation ${isolation}`);
  }
}

async function leases(client) {
  // Kept alive by the package, three times longer than granted.
  const ttl = 2;
  const lease = client.lease(ttl);
  await lease.put('lease/kept').value('x');
  let succeeded = 0;
  lease.on('keepaliveSucceeded', () => succeeded++);
  await sleep(3000 * ttl);
  assert.equal(await client.get('lease/kept').string(), 'x');
  assert(succeeded >= 4, `${succeeded} keepalives in ${3 * ttl} s`);
  await lease.keepaliveOnce();
  const asked = Date.now();
  lease.release(); // stops the keepalives, and lets the lease go by itself
  await until('the lease to expire', 8000, async () => (await client.get('lease/kept')) === null);
  assert(Date.now() - asked >= 1000 * ttl, 'not before its time');

  // Survives a kill of the server; revoked, its key is gone.
  const other = client.lease(60);
  await other.put('lease/revoked').value('x');
  await restart();
  assert.equal(await again(() => client.get('lease/revoked').string()), 'x');
  await again(() => other.revoke());
  assert.equal(await client.get('lease/revoked'), null);

  // A lease that somebody else revokes is lost, and its holder is told.
  const lost = client.lease(6);
  const id = await lost.grant();
  const told = new Promise(resolve => lost.on('lost', resolve));
  await client.leaseClient.leaseRevoke({ ID: id });
  await Promise.race([told, sleep(10_000).then(() => assert.fail('nobody was told'))]);
  assert.equal(lost.revoked(), true);
}

async function watches(client) {
  const start = (await client.put('watch/0').value('0')).header.revision;
  const seen = [];
  let lost = 0;
  const watcher = await client.watch().prefix('watch/').startRevision(start).withPreviousKV().create();
  watcher.on('put', (kv, previous) => seen.push(['put', kv, previous]));
  watcher.on('delete', (kv, previous) => seen.push(['delete', kv, previous]));
  watcher.on('disconnected', () => lost++);
  for (let n = 1; n < 10; n++) await client.put(`watch/${n}`).value(String(n));
  await until('ten events', 10_000, () => seen.length === 10);
  await restart(); // the package begins again where it was
  for (let n = 10; n < 20; n++) await again(() => client.put(`watch/${n}`).value(String(n)));
  await client.delete().key('watch/0');
  await client.put('watch/1').value('changed');
  await until('all events', 20_000, () => seen.length >= 22);
  await sleep(200);
  const revisions = seen.map(([, kv]) => +kv.mod_revision);
  assert.deepEqual(revisions, [...new Set(revisions)].sort((a, b) => a - b), 'once and in order');
  assert.equal(seen.length, 22);
  assert(lost > 0, 'the watch was never cut');
  assert.deepEqual([seen[20][0], seen[20][2].value.toString()], ['delete', '0']);
  assert.deepEqual([seen[21][1].value.toString(), seen[21][2].value.toString()], ['changed', '1']);
  await watcher.cancel();

  const deletes = [];
  const only = await client.watch().prefix('watch/').only('delete').create();
  only.on('delete', kv => deletes.push(kv.key.toString()));
  only.on('put', () => assert.fail('a put although only deletes were asked for'));
  await client.put('watch/2').value('x');
  await client.delete().prefix('watch/1');
  await until('deletes', 5000, () => deletes.length === 11);
  await only.cancel();
}

async function locks(client) {
  const other = connect();
  const lock = await client.lock('work').ttl(3).acquire();
  await assert.rejects(other.lock('work').acquire(), EtcdLockFailedError);
  await lock.release();
  const result = await other.lock('work').ttl(5).do(async () => {
    await assert.rejects(client.lock('work').acquire(), EtcdLockFailedError);
    return 'done';
  });
  assert.equal(result, 'done');
  await (await client.lock('work').acquire()).release();
}

async function elections(client) {
  const other = connect();
  const office = client.election('office', 5);
  assert.equal(await office.leader(), undefined);
  const seen = [];
  const observer = await office.observe();
  observer.on('change', value => seen.push(value));
  const sees = value => until(`the observer to see ${value}`, 5000, () => observer.leader() === value);
  const ann = office.campaign('ann');
  await ann.wait();
  await sees('ann');
  const bob = other.election('office', 5).campaign('bob');
  bob.on('error', error => assert.fail(error));
  let elected = false;
  bob.on('elected', () => { elected = true; });
  assert.equal(await office.leader(), 'ann');
  await ann.proclaim('ann, again');
  await sees('ann, again');
  await sleep(300);
  assert.equal(elected, false, 'two in one office');
  await ann.resign();
  await until('the next to be elected', 10_000, () => elected);
  assert.equal(await office.leader(), 'bob');
  await sees('bob');
  assert.deepEqual(seen.filter(value => value !== undefined), ['ann', 'ann, again', 'bob']);
  await observer.cancel();
  await bob.resign();
}

const client = connect();
assert.match((await client.maintenance.status()).version, /^3\./);
for (const [what, part] of Object.entries({
  'put, get, delete, prefixes': keys,
  'transactions, transactional memory': transactions,
  leases,
  'watches, resumed over a kill of the server': watches,
  locks,
  elections,
})) {
  await part(client);
  console.log(`ok   ${what}`);
}
clients.forEach(one => one.close());
