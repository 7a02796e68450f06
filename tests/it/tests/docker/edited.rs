//! A compose file with a mistake in it: the member concerned says so in one clear line, nobody panics, the others serve.

use anyhow::ensure;
use harness::{Compose, SERVICES};

use crate::support::{no_panic, put, run, said};

/// The third member, which the edits are about.
const THIRD: usize = 2;

/// A mistake in the compose file, and its consequence.
struct Mistake {
    /// Laid over the compose file.
    edit: String,
    /// Who tells of it.
    told_by: usize,
    /// For each line it tells: what must stand in it.
    lines: &'static [&'static [&'static str]],
    /// Whether the member ends (and is started again by docker), or waits for better days.
    ends: bool,
}

impl Mistake {
    /// Other settings for the third member.
    fn of_third(settings: &[(&str, &str)]) -> String {
        let lines: Vec<String> =
            settings.iter().map(|(name, value)| format!("      {name}: {value}\n")).collect();
        format!("services:\n  {}:\n    environment:\n{}", SERVICES[THIRD], lines.concat())
    }

    /// The same cluster for all, in which the third member has `url`.
    fn third_everywhere(url: &str) -> String {
        let one = "quorate1=http://quorate1:2380,quorate2=http://quorate2:2380";
        let member = |name: &str, more: &str| {
            format!("  {name}:\n    environment:\n      ETCD_INITIAL_CLUSTER: {one},quorate3={url}\n{more}")
        };
        let advertise = format!("      ETCD_INITIAL_ADVERTISE_PEER_URLS: {url}\n");
        let members = [member("quorate1", ""), member("quorate2", ""), member("quorate3", &advertise)];
        format!("services:\n{}", members.concat())
    }

    fn check(self) {
        run(|| async move {
            let compose = Compose::edited(&self.edit)?;
            compose.up()?;
            for words in self.lines {
                println!("{}", said(&compose, self.told_by, words).await?);
            }
            let client = compose.client();
            for member in [0, 1] {
                put(&client, member, "others are unharmed").await?;
            }
            let ended: u32 = compose.inspect(THIRD, "{{.RestartCount}}")?.parse()?;
            ensure!((ended > 0) == self.ends, "the third member was started again {ended} times");
            no_panic(&compose)
        });
    }
}

#[test]
fn a_member_that_its_own_cluster_does_not_list_says_so() {
    Mistake {
        edit: Mistake::of_third(&[(
            "ETCD_INITIAL_CLUSTER",
            "quorate1=http://quorate1:2380,quorate2=http://quorate2:2380",
        )]),
        told_by: THIRD,
        lines: &[&["couldn't find local name \\\"quorate3\\\" in the initial cluster"]],
        ends: true,
    }
    .check();
}

#[test]
fn a_member_whose_list_has_a_name_that_does_not_exist_is_kept_out_and_told_why() {
    Mistake {
        edit: Mistake::of_third(&[(
            "ETCD_INITIAL_CLUSTER",
            "quorate1=http://quorate1:2380,quorate2=http://quorate-two:2380,quorate3=http://quorate3:2380",
        )]),
        told_by: THIRD,
        lines: &[&[r#""error":"#, "quorate-two"], &[r#""error":"#, "cluster ID mismatch"]],
        ends: false,
    }
    .check();
}

#[test]
fn a_name_that_nobody_has_is_named_by_those_who_look_for_it() {
    Mistake {
        edit: Mistake::third_everywhere("http://quorate-three:2380"),
        told_by: 0,
        lines: &[&[r#""error":"#, "quorate-three"]],
        ends: false,
    }
    .check();
}

#[test]
fn a_port_where_nobody_listens_is_named_by_those_who_knock() {
    Mistake {
        edit: Mistake::third_everywhere("http://quorate3:2830"),
        told_by: 0,
        lines: &[&[r#""error":"#, "quorate3:2830", "refused"]],
        ends: false,
    }
    .check();
}
