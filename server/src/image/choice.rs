//! Which of the images that offer an engine is used, and which are not needed any more.

use time::OffsetDateTime;

/// An image as the choice sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its folder's name.
    pub name: String,
    /// The engine that it offers.
    pub engine: String,
    /// When it came onto this host.
    pub since: OffsetDateTime,
    /// When it passed its test, if it did.
    pub tested: Option<OffsetDateTime>,
    /// Whether it is not to be used any more.
    pub retired: bool,
}

impl Candidate {
    /// What goes before what: one that was tested, the newest first, before one that was not. The name
    /// decides between equals, so that everybody chooses alike.
    fn rank(&self) -> (Option<OffsetDateTime>, OffsetDateTime, &str) {
        (self.tested, self.since, &self.name)
    }
}

/// The image of each engine that new machines are made of, in the order of the engines' names. One that was
/// not tested takes nobody's place: it is used only where there is no tested one of its engine.
#[must_use]
pub fn in_use(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut used = kept(candidates, 1);
    used.sort_by(|one, other| one.engine.cmp(&other.engine));
    used
}

/// Those that stay: of each engine the one that is used, and those that were used before it, so many in
/// all.
fn kept(candidates: &[Candidate], generations: usize) -> Vec<&Candidate> {
    let mut ranked: Vec<&Candidate> = candidates.iter().filter(|it| !it.retired).collect();
    ranked.sort_by(|one, other| other.rank().cmp(&one.rank()));
    let mut kept: Vec<&Candidate> = Vec::new();
    for candidate in ranked {
        let of_engine = kept.iter().filter(|it| it.engine == candidate.engine);
        if of_engine.count() < generations {
            kept.push(candidate);
        }
    }
    kept
}

/// Those that may go as far as the choice is concerned. One that came after the one in use and was not tested
/// yet is about to be, and stays.
#[must_use]
pub fn superfluous(candidates: &[Candidate], generations: usize) -> Vec<&Candidate> {
    let kept = kept(candidates, generations.max(1));
    let used = in_use(candidates);
    let awaits_its_test = |it: &Candidate| {
        let used = used.iter().find(|used| used.engine == it.engine);
        !it.retired && it.tested.is_none() && used.is_none_or(|used| used.since < it.since)
    };
    candidates
        .iter()
        .filter(|it| !kept.contains(it) && !awaits_its_test(it))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(s)
    }

    fn image(name: &str, engine: &str, since: i64, tested: Option<i64>) -> Candidate {
        Candidate {
            name: name.into(),
            engine: engine.into(),
            since: at(since),
            tested: tested.map(at),
            retired: false,
        }
    }

    fn names<'a>(candidates: &[&'a Candidate]) -> Vec<&'a str> {
        candidates.iter().map(|it| it.name.as_str()).collect()
    }

    #[test]
    fn the_newest_tested_image_of_each_engine_is_used() {
        let mut all = [
            image("a", "26", 1, Some(10)),
            image("b", "26", 2, Some(20)),
            image("c", "26", 30, None),
            image("d", "28", 3, None),
            image("e", "28", 4, None),
        ];
        assert_eq!(names(&in_use(&all)), ["b", "e"]);
        all[1].retired = true;
        all[4].retired = true;
        assert_eq!(names(&in_use(&all)), ["a", "d"]);
        all[0].retired = true;
        assert_eq!(names(&in_use(&all)), ["c", "d"]);
        all[2].retired = true;
        assert_eq!(names(&in_use(&all)), ["d"]);
    }

    #[test]
    fn an_older_image_that_is_tested_again_is_used_again() {
        let all = [image("a", "26", 1, Some(30)), image("b", "26", 2, Some(20))];
        assert_eq!(names(&in_use(&all)), ["a"]);
    }

    #[test]
    fn two_generations_stay_and_so_does_what_awaits_its_test() {
        let mut all = [
            image("a", "26", 1, Some(10)),
            image("b", "26", 2, Some(20)),
            image("c", "26", 3, Some(30)),
            image("d", "26", 40, None),
            image("failed", "26", 2, None),
            image("x", "28", 1, None),
        ];
        assert_eq!(names(&superfluous(&all, 2)), ["a", "failed"]);
        assert_eq!(names(&superfluous(&all, 1)), ["a", "b", "failed"]);
        // Nobody wants to be without any.
        assert_eq!(names(&superfluous(&all, 0)), ["a", "b", "failed"]);
        all[2].retired = true;
        assert_eq!(names(&superfluous(&all, 2)), ["c", "failed"]);
        all[3].retired = true;
        assert_eq!(names(&superfluous(&all, 2)), ["c", "d", "failed"]);
    }
}
