//! Lists of pairs that do not depend on answers.

/// Every pair once: neighbours first, on a circle, then those two apart, and so on.
pub fn round_robin(n: usize) -> Vec<(usize, usize)> {
    let at = |distance: usize| {
        // Opposite ones meet once, not twice.
        let starts = if 2 * distance == n { distance } else { n };
        (0..starts).map(move |i| (i, (i + distance) % n))
    };
    (1..=n / 2).flat_map(at).collect()
}

/// Every response against each of `k` anchors, anchor by anchor. Anchors are the middles of `k` equal parts.
pub fn against_anchors(n: usize, k: usize) -> Vec<(usize, usize)> {
    let k = k.min(n);
    let anchors: Vec<usize> = (0..k).map(|t| (2 * t + 1) * n / (2 * k)).collect();
    let others = |t: usize| {
        let met = &anchors[..=t];
        (0..n).filter(|i| !met.contains(i)).map(move |i| (met[t], i)).collect::<Vec<_>>()
    };
    (0..k).flat_map(others).collect()
}
