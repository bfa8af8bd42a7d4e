//! Line charts side by side, as one SVG with a light and a dark color scheme.

use std::fmt::Write as _;

/// One chart, with its unit and scale.
pub struct Series {
    /// The title of the chart.
    pub name: &'static str,
    /// The unit of the vertical axis.
    pub unit: &'static str,
    /// Horizontal and vertical values, in ascending horizontal order.
    pub points: Vec<(f64, f64)>,
}

/// The size of a chart, its margins and the height of the title, in pixels.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 34.0;
const TITLE: f64 = 44.0;

/// Draws two charts in a row. The axes begin at zero, so that a proportional cost is a straight
/// line.
pub fn draw(title: &str, across: &str, all: &[Series]) -> String {
    let rows = all.len().div_ceil(2);
    let height = TITLE + HEIGHT * f64::from(u32::try_from(rows).unwrap_or(1));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>text{{fill:#333}}.grid{{stroke:#ccc}}.line{{stroke:#1668b8;fill:none;stroke-width:2}}.dot{{fill:#1668b8}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ddd}}.grid{{stroke:#555}}.line{{stroke:#6cb2f4}}.dot{{fill:#6cb2f4}}}}</style>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{title}</text>\n",
        WIDTH * 2.0
    );
    for (index, series) in all.iter().enumerate() {
        let column = f64::from(u32::from(index % 2 == 1));
        let row = f64::from(u32::try_from(index / 2).unwrap_or(0));
        chart(
            &mut svg,
            series,
            across,
            (column * WIDTH, TITLE + row * HEIGHT),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn chart(svg: &mut String, series: &Series, across: &str, (left, top): (f64, f64)) {
    let most = |of: fn(&(f64, f64)) -> f64| series.points.iter().map(of).fold(0.0, f64::max);
    let (wide, high) = (most(|point| point.0), round_up(most(|point| point.1)));
    let x = |value: f64| left + LEFT + value / wide * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| top + HEIGHT - BOTTOM - value / high * (HEIGHT - TOP - BOTTOM);
    // Writing to a string cannot fail.
    let (name, unit) = (series.name, series.unit);
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" font-weight=\"bold\">{name}</text>",
        left + LEFT,
        top + 20.0
    )
    .ok();
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{unit}</text>",
        left + WIDTH - RIGHT,
        top + 20.0
    )
    .ok();
    for step in [0.0, 0.5, 1.0] {
        let value = high * step;
        writeln!(
            svg,
            "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text \
             x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            x(0.0),
            x(wide),
            x(0.0) - 6.0,
            y(value) + 4.0,
            at = y(value),
        )
        .ok();
    }
    let path: Vec<String> = series
        .points
        .iter()
        .map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up)))
        .collect();
    writeln!(
        svg,
        "<polyline class=\"line\" points=\"{}\"/>",
        path.join(" ")
    )
    .ok();
    for (value, up) in &series.points {
        writeln!(
            svg,
            "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/><text x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"middle\" font-size=\"11\">{value}</text>",
            x(*value),
            y(*up),
            x(*value),
            top + HEIGHT - BOTTOM + 16.0,
        )
        .ok();
    }
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"11\">{across}</text>",
        x(wide),
        top + HEIGHT - 4.0
    )
    .ok();
}

/// Rounds up to 1, 2 or 5 times a power of ten, so that the axis has round numbers.
fn round_up(most: f64) -> f64 {
    let power = 10_f64.powf(most.max(1e-3).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= most)
        .unwrap_or(most)
}
