//! Filters decide by its metadata whether an object is left out of a stream.

use super::Metadata;

/// A filter: true means that the object is left out.
pub(super) type Filter = Box<dyn Fn(&Metadata) -> bool + Send + Sync>;

/// Leaves out objects at random, each with probability `p`.
///
/// Panics unless `p` is between 0 and 1.
pub fn sampling(p: f64) -> impl Fn(&Metadata) -> bool + Send + Sync + 'static {
    assert!((0.0..=1.0).contains(&p), "a probability is between 0 and 1, not {p}");
    move |_| rand::random::<f64>() < p
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_about_as_large_as_asked() {
        let left_out = |p| {
            let filter = sampling(p);
            (0..10_000).filter(|_| filter(&Metadata::new())).count()
        };
        assert_eq!((left_out(0.0), left_out(1.0)), (0, 10_000));
        // Ten standard deviations around the mean.
        assert!((2500..3500).contains(&left_out(0.3)));
    }

    #[test]
    #[should_panic(expected = "not 1.5")]
    fn a_probability_above_one_is_refused() {
        drop(sampling(1.5));
    }
}
