use super::*;
use crate::config::{PoolConfig, ScheduleConfig};

fn offered(config: &Config) -> Catalogue {
    let engines = vec![EngineOffer {
        name: "26".to_owned(),
        version: "26.1.5".to_owned(),
    }];
    Catalogue::new(engines, None, config.sizes.clone(), &config.default_size).unwrap()
}

/// What is wrong with this pool on a host with so much memory, with its causes.
fn fault(pool: PoolConfig, budget_mib: u64) -> Option<String> {
    let mut config = Config::default();
    config.pool = vec![pool];
    let error = calendar(&config, &offered(&config), budget_mib).err()?;
    let causes = std::iter::successors(std::error::Error::source(&error), |it| it.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    Some(format!("{error}{causes}"))
}

fn pool(ready: u32, schedule: &[(&str, u32)]) -> PoolConfig {
    let change = |(at, ready): &(&str, u32)| ScheduleConfig {
        at: (*at).to_owned(),
        time_zone: "UTC".to_owned(),
        ready: *ready,
    };
    PoolConfig {
        engine: None,
        size: Some("small".to_owned()),
        ready,
        schedule: schedule.iter().map(change).collect(),
    }
}

#[test]
fn a_pool_that_could_never_be_full_is_refused_with_what_to_do() {
    let small_mib = u64::from(Config::default().sizes["small"].memory_mib);
    assert_eq!(fault(pool(3, &[]), 3 * small_mib), None);
    let fault = fault(pool(1, &[("0 7 * * *", 4)]), 3 * small_mib).unwrap();
    for words in [
        format!("{} MiB", 4 * small_mib),
        format!("may have {}", 3 * small_mib),
        "keep fewer ready".to_owned(),
        "limits.memory_budget_mib".to_owned(),
    ] {
        assert!(fault.contains(&words), "{words}: {fault}");
    }
}

#[test]
fn a_pool_whose_times_are_nonsense_is_refused_with_what_is_expected() {
    for at in ["whenever", "61 * * * *", "0 0 30 2 *"] {
        let fault = fault(pool(1, &[(at, 1)]), u64::MAX).unwrap();
        assert!(
            fault.contains("a time that cannot be understood"),
            "{fault}"
        );
        assert!(fault.contains(at), "{fault}");
    }
}

#[test]
fn a_pool_of_what_is_not_offered_is_refused_with_what_is() {
    let mut unknown = pool(1, &[]);
    unknown.size = Some("huge".to_owned());
    let fault = fault(unknown, u64::MAX).unwrap();
    for words in ["`pool` (number 1)", "`huge`", "small"] {
        assert!(fault.contains(words), "{words}: {fault}");
    }
}
