//! Signals that a Go program takes by itself, and a log that clients cannot fill.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Context as _, ensure};
use harness::Cluster;
use proto::etcdserverpb::{
    WatchCreateRequest, WatchRequest, watch_client::WatchClient, watch_request::RequestUnion,
};
use rustix::process::Signal;

use crate::support::{metric, put, run};

/// Requests that each wrote a line.
const FLOOD: usize = 100_000;

#[test]
fn sigusr_does_nothing_and_sigquit_says_what_the_threads_do_and_ends_with_2() {
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        for signal in [Signal::USR1, Signal::USR2] {
            cluster.member(0).process()?.signal(signal)?;
        }
        std::thread::sleep(Duration::from_millis(200));
        put(&client, 0, "k", "v").await.context("after SIGUSR1 and SIGUSR2")?;
        cluster.member(0).process()?.signal(Signal::QUIT)?;
        let status = cluster.member(0).process()?.wait_end(Duration::from_secs(20))?;
        ensure!(status.code() == Some(2) && status.signal().is_none(), "{status}");
        let output = cluster.member(0).process()?.output();
        ensure!(output.contains("SIGQUIT: quit"), "{output}");
        Ok(())
    });
}

#[test]
fn a_client_cannot_fill_the_log() {
    run(async {
        let mut cluster = Cluster::start(1)?;
        let client = cluster.client();
        let before = cluster.member(0).process()?.output().len();
        // The last one is answered, once all before it were read.
        let last = WatchCreateRequest { key: "k".into(), ..WatchCreateRequest::default() };
        let last = WatchRequest { request_union: Some(RequestUnion::CreateRequest(last)) };
        let empty = std::iter::repeat_n(WatchRequest { request_union: None }, FLOOD);
        let requests = tokio_stream::iter(empty.chain([last]));
        let url = cluster.members()[0].addresses.client_url();
        let mut watch = WatchClient::connect(url).await?;
        let mut answers = watch.watch(requests).await?.into_inner();
        let answer = tokio::time::timeout(Duration::from_mins(1), answers.message());
        let answer = answer.await.context("the last request's answer")??;
        ensure!(answer.as_ref().is_some_and(|answer| answer.created), "{answer:?}");
        put(&client, 0, "k", "v").await?;
        std::thread::sleep(Duration::from_millis(200));
        let written = cluster.member(0).process()?.output().len() - before;
        println!("{FLOOD} requests: {written} bytes of log");
        // A hundred a second, and one in a hundred: some 200 bytes each.
        ensure!(written < 2 << 20, "{written} bytes of log");
        let port = cluster.members()[0].addresses.client.number();
        let left_out = metric(port, "quorate_log_lines_lost_total{reason=\"sampled\"}")?;
        ensure!(left_out > 50_000.0, "{left_out}");
        Ok(())
    });
}
