//! Statistics of a sample: median, 95th percentile and range.

/// Measured values of one quantity, in one unit.
#[derive(Debug, Default)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The median; NaN for an empty sample.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            len if len % 2 == 1 => self.0[middle],
            _ => f64::midpoint(self.0[middle - 1], self.0[middle]),
        }
    }

    /// The 95th percentile.
    pub fn p95(&self) -> f64 {
        let rank = (self.0.len() * 95).div_ceil(100);
        self.0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }

    fn ends(&self) -> (f64, f64) {
        let or_nan = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (or_nan(self.0.first()), or_nan(self.0.last()))
    }

    /// The median, the 95th percentile and the range, as text.
    pub fn text(&self, unit: &str, decimals: usize) -> String {
        let (least, most) = self.ends();
        let (median, p95) = (self.median(), self.p95());
        format!(
            "{median:.decimals$}{unit} (p95 {p95:.decimals$}, {least:.decimals$}-{most:.decimals$})"
        )
    }
}

impl Extend<f64> for Sample {
    fn extend<T: IntoIterator<Item = f64>>(&mut self, values: T) {
        values.into_iter().for_each(|value| self.push(value));
    }
}
