//! What failed, how often, and when it is tried again. Kept in memory only: a new daemon tries at once.

use banger_plan::actual::{Actual, SandboxFact};
use banger_plan::desired::{Desired, DesiredSandbox, Key, Life};
use banger_plan::kind::is_ready;
use banger_plan::plan::{List, Plan};
use banger_plan::status::{Failure, Failures};
use banger_wire::agent::Phase;
use banger_wire::api::{Problem, ProblemKind};
use banger_wire::id::Generation;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Who was ready for so long starts with a clean sheet. Whoever ends sooner, again and again, waits longer each time.
const STEADY: Duration = Duration::from_secs(60);
/// What should go is tried at least this often.
const LONGEST_PAUSE_OF_REMOVAL: Duration = Duration::from_secs(2);

/// What a failure belongs to: a newer generation starts with a clean sheet.
type Stamp = Option<(Generation, Life)>;

#[derive(Debug)]
struct Trouble {
    stamp: Stamp,
    /// It is about a start that came to nothing, and over when the sandbox is ready.
    of_start: bool,
    count: u32,
    problem: Problem,
    next_try: Instant,
}

/// Starts of a sandbox that has not been ready for long since.
#[derive(Debug)]
struct Attempt {
    stamp: Stamp,
    count: u32,
    reported: bool,
    /// Whether it was ready since it was started last.
    came_up: bool,
    /// Since when it is.
    ready: Option<Instant>,
}

/// All failures.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    troubles: BTreeMap<Key, Trouble>,
    attempts: BTreeMap<Key, Attempt>,
}

fn stamp(key: &Key, desired: &Desired) -> Stamp {
    desired.sandboxes.get(key.sandbox()?).map(|s| (s.generation, s.life))
}

fn sandbox_of<'a>(
    key: &Key,
    desired: &'a Desired,
    actual: &'a Actual,
) -> Option<(&'a DesiredSandbox, &'a SandboxFact)> {
    let id = key.sandbox()?;
    Some((desired.sandboxes.get(id)?, actual.sandboxes.get(id)?))
}

fn pause(count: u32, stamp: Stamp) -> Duration {
    let longest = match stamp {
        Some((_, Life::Removed)) => LONGEST_PAUSE_OF_REMOVAL,
        Some((_, Life::Wanted)) | None => LONGEST_PAUSE,
    };
    (FIRST_PAUSE * 2u32.saturating_pow(count.min(16))).min(longest)
}

impl Troubles {
    /// Forgets failures: somebody asked for these things anew.
    pub(super) fn forgive(&mut self, about: impl Fn(&Key) -> bool) {
        self.troubles.retain(|key, _| !about(key));
        self.attempts.retain(|key, _| !about(key));
    }

    /// Drops what belongs to older generations, to things that are gone, and to sandboxes that became ready.
    pub(super) fn settle(
        &mut self,
        desired: &Desired,
        actual: &Actual,
        plan: &Plan,
        busy: &BTreeSet<Key>,
    ) {
        let ready = |key: &Key| match sandbox_of(key, desired, actual) {
            Some((sandbox, fact)) => is_ready(sandbox, Some(fact)),
            None => false,
        };
        // What needs nothing done and stays as it is, is in no trouble any more. A guest of which nothing is seen for a moment
        // does not stay as it is.
        let at_rest = |key: &Key| match sandbox_of(key, desired, actual) {
            Some((sandbox, fact)) => {
                let guest = fact.guest.present();
                let gave_up = guest.is_some_and(|guest| guest.phase == Phase::Failed);
                fact.vmm.is_absent() || sandbox.runs() && (gave_up || ready(key))
            }
            None => true,
        };
        self.troubles.retain(|key, trouble| {
            let over = !plan.lists.contains_key(key) && !busy.contains(key) && at_rest(key);
            !over && trouble.stamp == stamp(key, desired) && !(trouble.of_start && ready(key))
        });
        self.attempts.retain(|key, attempt| {
            match ready(key) {
                true => {
                    attempt.came_up = true;
                    attempt.ready.get_or_insert_with(Instant::now);
                }
                false => attempt.ready = None,
            }
            let steady = attempt.ready.is_some_and(|since| since.elapsed() >= STEADY);
            attempt.stamp == stamp(key, desired) && !steady
        });
    }

    /// How often it was started since it was ready for long.
    pub(super) fn tries(&self, key: &Key) -> u32 {
        self.attempts.get(key).map_or(0, |attempt| attempt.count)
    }

    /// Whether a sandbox that came up is to be started again because its guest went in order, or because we end it: then that is
    /// no failure, and it begins with a clean sheet.
    pub(super) fn ended_in_order(&mut self, key: &Key, list: &List, actual: &Actual) -> bool {
        let (Some(_), Key::Sandbox(id)) = (list.start(), key) else { return false };
        let Some(fact) = actual.sandboxes.get(id) else { return false };
        let in_order = match fact.vmm.present() {
            Some(vmm) => vmm.whole && fact.guest.present().is_some(),
            None => fact.run.present().is_some_and(|run| run.left),
        };
        let came_up = self.attempts.get(key).is_some_and(|attempt| attempt.came_up);
        if in_order && came_up {
            self.attempts.remove(key);
        }
        in_order && came_up
    }

    /// Why a start is planned again although the sandbox was started for this generation. `None` when it was not.
    pub(super) fn failed_attempt(
        &self,
        key: &Key,
        list: &List,
        desired: &Desired,
    ) -> Option<String> {
        let why = &list.start()?.cause;
        let attempt = self.attempts.get(key)?;
        (!attempt.reported && attempt.stamp == stamp(key, desired)).then(|| why.to_string())
    }

    /// Records that a start came to nothing.
    pub(super) fn attempt_failed(&mut self, key: &Key, why: &str, last_words: &str) {
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        attempt.reported = true;
        let (count, stamp) = (attempt.count, attempt.stamp);
        let message = match last_words.trim() {
            "" => why.to_string(),
            words => format!("{why}; its console ends with: {words}"),
        };
        let problem = Problem { kind: ProblemKind::Host, message, hints: Vec::new() };
        let next_try = Instant::now() + pause(count, stamp);
        self.troubles
            .insert(key.clone(), Trouble { stamp, of_start: true, count, problem, next_try });
    }

    /// Whether it is time.
    pub(super) fn may_try(&self, key: &Key) -> bool {
        self.troubles.get(key).is_none_or(|trouble| trouble.next_try <= Instant::now())
    }

    /// A list begins.
    pub(super) fn begin(&mut self, key: &Key, list: &List, desired: &Desired) {
        if list.start().is_some() {
            let stamp = stamp(key, desired);
            let attempt = self.attempts.entry(key.clone());
            let attempt = attempt.or_insert(Attempt {
                stamp,
                count: 0,
                reported: false,
                came_up: false,
                ready: None,
            });
            attempt.count += 1;
            attempt.reported = false;
            (attempt.came_up, attempt.ready) = (false, None);
        }
    }

    /// A list ended well. A sandbox that was started keeps its record until it is ready.
    pub(super) fn list_succeeded(&mut self, key: &Key) {
        let of_start = self.troubles.get(key).is_some_and(|trouble| trouble.of_start);
        if !(of_start && self.attempts.contains_key(key)) {
            self.troubles.remove(key);
        }
    }

    /// A list failed.
    pub(super) fn list_failed(&mut self, key: &Key, problem: Problem, desired: &Desired) {
        let start = self.attempts.get_mut(key).filter(|attempt| attempt.ready.is_none());
        let of_start = start.is_some();
        if let Some(attempt) = start {
            attempt.reported = true;
        }
        let stamp = stamp(key, desired);
        let count = self.troubles.get(key).map_or(0, |trouble| trouble.count) + 1;
        let next_try = Instant::now() + pause(count, stamp);
        self.troubles.insert(key.clone(), Trouble { stamp, of_start, count, problem, next_try });
    }

    /// How long until something may be tried.
    pub(super) fn next_try(&self) -> Option<Duration> {
        let now = Instant::now();
        // What is due already is tried in every pass, as soon as it waits for nothing.
        let due = self.troubles.values().filter(|trouble| trouble.next_try > now);
        due.map(|trouble| trouble.next_try - now).min()
    }

    /// As the status shows them.
    pub(super) fn failures(&self) -> Failures {
        let now = Instant::now();
        let failure = |trouble: &Trouble| Failure {
            count: trouble.count,
            problem: trouble.problem.clone(),
            next_try_secs: trouble.next_try.saturating_duration_since(now).as_secs(),
        };
        self.troubles.iter().map(|(key, trouble)| (key.clone(), failure(trouble))).collect()
    }
}
