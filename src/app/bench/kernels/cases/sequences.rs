//! Attention over packed sequences, decoding over a paged cache, and writing to it.

use super::super::Sizes;
use super::super::names;
use super::case;
use crate::app::bench::{Bound, Case, Fill, Operand};
use crate::base::dtype::Dtype;
use crate::device::{Device, View};
use crate::ops::attention::{Paths, attention_bwd, attention_bwd_cost, attention_fwd, attention_fwd_cost};
use crate::ops::attention::{attention_gather_fwd, attention_gather_fwd_cost};
use crate::ops::decode::{Paged, decode_fwd, decode_fwd_cost, partials_width, shares};
use crate::ops::pages::{pages_write, pages_write_cost};

pub(super) fn sequences(s: &Sizes, e: Dtype) -> Vec<Case> {
    let mut all: Vec<Case> = s.sequences.iter().flat_map(|lengths| attention(s, e, lengths)).collect();
    all.extend(s.sequences.last().map(|lengths| gathered(s, e, lengths)));
    all.extend(paged(s, e));
    all.extend(sampled(s, e));
    all
}

/// Where each sequence starts, and where the last one ends.
fn starts(lengths: &[usize]) -> Operand {
    let ends = lengths.iter().scan(0, |at, n| (*at += *n as i32, Some(*at)).1);
    Operand::ids(1, [0].into_iter().chain(ends).collect())
}

fn attention(s: &Sizes, e: Dtype, lengths: &[usize]) -> [Case; 2] {
    use Operand as O;
    let (h, stat, t) = (s.heads, e.stat(), lengths.iter().sum());
    let (shape, starts, scale) = (names::sequences(e, lengths, h), starts(lengths), h.scale());
    let (q, kv) = (O::normal(e, t, h.query * h.size), O::normal(e, t, h.kv * h.size));
    let lse = O::normal(stat, t, h.query);
    [
        case(
            "attention_fwd",
            shape.clone(),
            attention_fwd_cost(e, lengths, h),
            Bound::Matrix,
            vec![q.clone(), lse.clone(), q.clone(), kv.clone(), kv.clone(), starts.clone()],
            move |dev, v| attention_fwd(dev, v[0], v[1], v[2], v[3], v[4], v[5], h, scale),
        ),
        case(
            "attention_bwd",
            shape,
            attention_bwd_cost(e, lengths, h),
            Bound::Matrix,
            vec![
                q.clone(),
                kv.clone(),
                kv.clone(),
                O::zeros(stat, t, h.query),
                q.clone(),
                q.clone(),
                // Any finite log-sum-exp will do.
                O { fill: Fill::Normal(0.0), ..lse },
                q,
                kv.clone(),
                kv,
                starts,
            ],
            move |dev, v| {
                attention_bwd(dev, v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], h, scale)
            },
        ),
    ]
}

/// The ends of sequences that share a beginning of three quarters, then have their own part, all in rows of one pool.
fn gathered(s: &Sizes, e: Dtype, lengths: &[usize]) -> Case {
    use Operand as O;
    let (h, stat, scale) = (s.heads, e.stat(), s.heads.scale());
    let own = lengths.iter().map(|n| n.div_ceil(4)).collect::<Vec<usize>>();
    let shared = lengths.iter().zip(&own).map(|(n, own)| n - own).max().unwrap_or(0);
    let firsts = own.iter().scan(shared, |at, n| Some(std::mem::replace(at, *at + n)));
    let listed =
        lengths.iter().zip(&own).zip(firsts).flat_map(|((n, own), first)| (0..n - own).chain(first..first + own));
    let listed = O::ids(1, listed.map(|row| row as i32).collect());
    let fresh: usize = own.iter().sum();
    let held = O::normal(e, shared + fresh, h.kv * h.size);
    let (asked, asked_lse) = (O::normal(e, fresh, h.query * h.size), O::zeros(stat, fresh, h.query));
    case(
        "attention_gather_fwd",
        names::ends(e, fresh, lengths, h),
        attention_gather_fwd_cost(e, &own, lengths, h),
        Bound::Matrix,
        vec![asked.clone(), asked_lse, asked, held.clone(), held, starts(&own), starts(lengths), listed],
        move |dev, v| {
            let paths = Paths { queries: v[5], keys: v[6], places: v[7] };
            attention_gather_fwd(dev, v[0], v[1], v[2], v[3], v[4], paths, h, scale)
        },
    )
}

/// Tokens in a page.
const PAGE: usize = 64;

fn paged(s: &Sizes, e: Dtype) -> [Case; 2] {
    use Operand as O;
    let (h, stat, scale, [b, len]) = (s.heads, e.stat(), s.heads.scale(), s.decode);
    let per = len.div_ceil(PAGE);
    // Pages of one sequence lie apart, as in a pool that has been in use.
    let table = O::ids(b, (0..b * per).map(|i| (i % per * b + i / per) as i32).collect());
    let pool = O::normal(e, b * per * PAGE, h.kv * h.size);
    let q_rows = O::normal(e, b, h.query * h.size);
    let partials = O::zeros(stat, b, partials_width(h, per * PAGE));
    let places = O::ids(1, (0..(b * per * PAGE) as i32).collect());
    let (lens, none) = (O::ids(1, vec![len as i32; b]), O::ids(1, vec![0; b]));
    [
        case(
            "decode_fwd",
            names::decoding(e, s.decode, h),
            decode_fwd_cost(e, &vec![len; b], 0, h),
            Bound::Read,
            vec![q_rows.clone(), q_rows, pool.clone(), pool.clone(), table, lens, none, partials],
            move |dev, v| decode_fwd(dev, v[0], v[1], cached(&v[2..]), h, scale, v[7]),
        ),
        case(
            "pages_write",
            names::rows(e, b * per * PAGE, h.kv * h.size),
            pages_write_cost(e, b * per * PAGE, h.kv * h.size),
            Bound::Copy,
            vec![pool.clone(), pool.clone(), pool.clone(), pool, places],
            |dev, v| pages_write(dev, v[0], v[1], v[2], v[3], v[4]),
        ),
    ]
}

fn cached<'a>(v: &[View<'a>]) -> Paged<'a> {
    Paged { k: v[0], v: v[1], table: v[2], lens: v[3], shares: v[4], page: PAGE }
}

/// Samples of one prompt, whose pages are the same: found and read once, and by each for itself.
fn sampled(s: &Sizes, e: Dtype) -> [Case; 2] {
    use Operand as O;
    let (h, scale, [b, prompt, own]) = (s.heads, s.heads.scale(), s.samples);
    let (common, each) = (prompt / PAGE, own.div_ceil(PAGE) + prompt.div_ceil(PAGE) - prompt / PAGE);
    let per = common + each;
    let page = |i: usize, p: usize| if p < common { p * b } else { common * b + p * b + i };
    let pool = O::normal(e, (common * b + per * b) * PAGE, h.kv * h.size);
    let table = O::ids(b, (0..b * per).map(|at| page(at / per, at % per) as i32).collect());
    let q_rows = O::normal(e, b, h.query * h.size);
    let partials = O::zeros(e.stat(), b, partials_width(h, per * PAGE));
    let (lens, none) = (O::ids(1, vec![(prompt + own) as i32; b]), O::ids(1, vec![0; b]));
    let of = |op, found: fn(&Device, &[View])| {
        case(
            op,
            names::samples(e, s.samples, h),
            // What must be read, by whichever way.
            decode_fwd_cost(e, &vec![prompt + own; b], common * PAGE, h),
            Bound::Read,
            vec![
                q_rows.clone(),
                q_rows.clone(),
                pool.clone(),
                pool.clone(),
                table.clone(),
                lens.clone(),
                none.clone(),
                partials.clone(),
            ],
            move |dev, v| {
                found(dev, v);
                decode_fwd(dev, v[0], v[1], cached(&v[2..]), h, scale, v[7]);
            },
        )
    };
    [
        of("decode_shared", |dev, v| shares(dev, v[6], v[4], v[5], PAGE, v[2].rows() / PAGE)),
        of("decode_alone", |_, _| ()),
    ]
}
