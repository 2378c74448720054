use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

use super::*;
use crate::connectors::LocalConnector;

/// Sizes are drawn from so few that bounds are hit often.
const SIZES: u64 = 8;

fn tags() -> impl Strategy<Value = Vec<String>> {
    let all = ["fast", "near", "lasting"].map(str::to_owned).to_vec();
    subsequence(all, 0..=3)
}

fn policy() -> impl Strategy<Value = Policy> {
    let max = prop_oneof![0..SIZES, Just(policy::UNLIMITED)];
    let hosts =
        select(vec![None, Some(vec![".*".to_owned()]), Some(vec!["(?-u:[^\\x00-\\xff])".to_owned()])]);
    (-1..2_i64, hosts, 0..SIZES, max, tags(), tags()).prop_map(
        |(priority, host_pattern, min_size_bytes, max_size_bytes, subset_tags, superset_tags)| Policy {
            priority,
            host_pattern,
            min_size_bytes,
            max_size_bytes,
            subset_tags,
            superset_tags,
        },
    )
}

fn multi_of(policies: &[Policy]) -> MultiConnector {
    let add = |multi: MultiConnector, (name, policy): (usize, &Policy)| {
        multi.with(name.to_string(), LocalConnector::new(), policy.clone())
    };
    policies.iter().enumerate().try_fold(MultiConnector::new(), add).unwrap()
}

/// By the words of the documentation, without any order but that of the numbers.
fn naive_choice(policies: &[Policy], len: u64, options: &PutOptions) -> Option<usize> {
    let takes = |policy: &Policy| {
        let here = policy.host_pattern.as_ref().is_none_or(|patterns| patterns[0] == ".*");
        let size = policy.min_size_bytes <= len && len <= policy.max_size_bytes;
        let subset = options.subset_tags.iter().all(|tag| policy.subset_tags.contains(tag));
        let superset = policy.superset_tags.iter().all(|tag| options.superset_tags.contains(tag));
        here && size && subset && superset
    };
    let taking: Vec<_> = (0..policies.len()).filter(|index| takes(&policies[*index])).collect();
    let highest = taking.iter().map(|index| policies[*index].priority).max()?;
    taking.into_iter().find(|index| policies[*index].priority == highest)
}

proptest! {
    #[test]
    fn the_choice_is_the_documented_one(
        policies in prop::collection::vec(policy(), 0..6),
        subset_tags in tags(),
        superset_tags in tags(),
    ) {
        let multi = multi_of(&policies);
        let options = PutOptions { subset_tags, superset_tags };
        let chosen = |len| multi.choose(len, &options).ok().map(|choice| choice.name.parse::<usize>().unwrap());
        for len in 0..SIZES + 1 {
            prop_assert_eq!(chosen(len), naive_choice(&policies, len, &options));
        }
        // What is decided before all of an object is there holds for all that it can become.
        for len in 0..SIZES + 1 {
            let early = match multi.choose_early(len, &options) {
                Ok(None) => continue,
                Ok(Some(choice)) => Some(choice.name.parse::<usize>().unwrap()),
                Err(_) => None,
            };
            prop_assert!((len..SIZES + 1).all(|len| chosen(len) == early));
        }
    }
}

/// Two connectors, one for each of the hosts `here` and `there`.
fn on_two_hosts() -> ConnectorConfig {
    let member = |name: &str| {
        let connector = LocalConnector::new().config();
        json!({ "name": name, "connector": connector, "policy": { "host_pattern": [name] } })
    };
    ConnectorConfig::new(KIND, &json!({ "connectors": [member("here"), member("there")] }))
}

#[tokio::test]
async fn a_dormant_connector_is_passed_on_and_works_on_its_host() {
    let config = on_two_hosts();
    let there = MultiConnector::on_host("there", &config).unwrap();
    let key = there.put(vec![1, 2, 3].into(), &PutOptions::default()).await.unwrap();
    assert!(matches!(&key, Key::Multi { connector_name, .. } if connector_name == "there"));

    let here = MultiConnector::on_host("here", &there.config()).unwrap();
    let dormant = ConnectorError::Dormant { name: "there".to_owned(), key: key.clone() };
    assert_eq!(here.get(&key).await, Err(dormant.clone()));
    assert_eq!(here.exists(&key).await, Err(dormant.clone()));
    assert_eq!(here.evict(&key).await, Err(dormant.clone()));
    assert_eq!(here.wait(&key, Instant::now()).await, Err(dormant.clone()));
    assert_eq!(here.get_batch(std::slice::from_ref(&key)).await, Err(dormant));
    assert_eq!(here.config(), config);

    let there_again = MultiConnector::on_host("there", &here.config()).unwrap();
    assert_eq!(there_again.get(&key).await, Ok(Some(vec![1, 2, 3].into())));
    here.close().await.unwrap();
}

#[test]
fn what_a_dormant_connector_is_configured_with_is_not_printed() {
    let mut config = on_two_hosts();
    config.settings["connectors"][1]["connector"]["settings"] = json!({ "url": "redis://:hush@host" });
    let multi = MultiConnector::on_host("here", &config).unwrap();
    let printed = format!("{multi:?}");
    assert!(printed.contains("there") && !printed.contains("hush"), "{printed}");
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let refused = |config: serde_json::Value| {
        MultiConnector::from_config(&ConnectorConfig::new(KIND, &config)).unwrap_err().to_string()
    };
    let local = LocalConnector::new().config();
    let member = |policy| json!({ "name": "a", "connector": local, "policy": policy });
    assert!(
        refused(json!({ "connectors": [member(json!({})), member(json!({}))] })).contains("called \"a\"")
    );
    assert!(
        refused(json!({ "connectors": [member(json!({ "host_pattern": "(" }))] })).contains("host pattern")
    );
    assert!(refused(json!({ "connectors": [member(json!({ "prority": 1 }))] })).contains("prority"));
    assert!(refused(json!({})).contains("connectors"));
}
