//! Opening: rebuilds the index from the keys' own rows, live and dead, merged in key order.

use crate::index::{Index, Push};
use crate::options::Shape;
use crate::record::{self, Record};
use crate::row::{self, Counters, DEAD_END, DEAD_PREFIX, STATE_KEY, broken, corrupt};
use crate::scan::{scan_while, try_scan};
use engine::{Engine, Family, Fault};
use std::ops::ControlFlow;

/// Dead keys held while live ones are read; more are read in rounds. At 64 bytes a key, 8 MiB.
const DEAD_PAGE: usize = 65_536;

pub(crate) fn load(engine: &dyn Engine, shape: Shape) -> Result<(Counters, Index), Fault> {
    let state = match engine.get(Family::Meta, STATE_KEY)? {
        Some(row) => Counters::decode(&row).ok_or_else(|| broken("Meta", STATE_KEY))?,
        None => Counters::fresh(),
    };
    let index = Index::build(shape, |push| {
        let mut dead = Dead::new(engine);
        dead.fill()?;
        let mut key = Vec::new();
        let mut last = state.revision;
        try_scan(engine, Family::Latest, &[], None, &mut |escaped, row| {
            row::unescape(escaped, &mut key).ok_or_else(|| broken("Latest", escaped))?;
            let (_, record) = row::split_latest(row).ok_or_else(|| broken("Latest", escaped))?;
            accept(escaped, record, true, &mut last)?;
            dead.push_before(Some(&key), push)?;
            push(&key, record);
            Ok(())
        })?;
        dead.push_before(None, push)?;
        if last > state.revision {
            return Err(corrupt(format!(
                "a key was changed at {last}, after the revision {}",
                state.revision
            )));
        }
        Ok(())
    })?;
    Ok((state, index))
}

struct Dead<'a> {
    engine: &'a dyn Engine,
    page: std::collections::VecDeque<(Vec<u8>, Vec<u8>)>,
    next: Vec<u8>,
    done: bool,
}

impl<'a> Dead<'a> {
    fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, page: std::collections::VecDeque::new(), next: DEAD_PREFIX.to_vec(), done: false }
    }

    fn fill(&mut self) -> Result<(), Fault> {
        let (page, mut last) = (&mut self.page, i64::MAX);
        scan_while(self.engine, Family::Meta, &self.next, Some(DEAD_END), |row_key, record| {
            let mut key = Vec::new();
            let escaped = row_key.strip_prefix(DEAD_PREFIX);
            escaped.and_then(|e| row::unescape(e, &mut key)).ok_or_else(|| broken("Meta", row_key))?;
            accept(row_key, record, false, &mut last)?;
            page.push_back((key, record.to_vec()));
            let is_full = page.len() == DEAD_PAGE;
            Ok::<_, Fault>(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        self.done = self.page.len() < DEAD_PAGE;
        if let Some((key, _)) = self.page.back() {
            self.next = DEAD_PREFIX.to_vec();
            row::escape(key, &mut self.next);
            self.next.push(0);
        }
        Ok(())
    }

    fn push_before(&mut self, limit: Option<&[u8]>, push: &mut Push<'_>) -> Result<(), Fault> {
        loop {
            while let Some((key, record)) = self.page.front() {
                match limit.map(|limit| key[..].cmp(limit)) {
                    Some(std::cmp::Ordering::Greater) => return Ok(()),
                    Some(std::cmp::Ordering::Equal) => {
                        return Err(corrupt(format!("the key {} is both live and dead", key.escape_ascii())));
                    }
                    Some(std::cmp::Ordering::Less) | None => push(key, record),
                }
                self.page.pop_front();
            }
            if self.done {
                return Ok(());
            }
            self.fill()?;
        }
    }
}

fn accept(row_key: &[u8], record: &[u8], live: bool, last: &mut i64) -> Result<(), Fault> {
    let parsed = Record::parse(record).filter(|_| record::is_live(record) == live);
    let Some(parsed) = parsed else { return Err(broken(if live { "Latest" } else { "Meta" }, row_key)) };
    *last = (*last).max(parsed.head.newest.main);
    Ok(())
}
