//! Circles among comparisons: i beats j beats k beats i.

/// The strongly connected components of "beats" with more than one member: within each, everyone beats everyone through
/// others. Members ascend, and so do components by their first.
pub fn cycles(n: usize, beats: impl Iterator<Item = (usize, usize)>) -> Vec<Vec<usize>> {
    let (mut beaten, mut beaters) = (vec![Vec::new(); n], vec![Vec::new(); n]);
    for (winner, loser) in beats {
        beaten[winner].push(loser);
        beaters[loser].push(winner);
    }
    // Kosaraju and Sharir: in the reverse of the order in which a depth-first search leaves them, what reaches a response
    // and has no component yet is its component.
    let mut component = vec![usize::MAX; n];
    for root in left_in_order(n, &beaten).into_iter().rev() {
        let mut open = vec![root];
        while let Some(i) = open.pop() {
            if component[i] == usize::MAX {
                component[i] = root;
                open.extend(beaters[i].iter().filter(|j| component[**j] == usize::MAX));
            }
        }
    }
    let mut members = vec![Vec::new(); n];
    for (i, c) in component.iter().enumerate() {
        members[*c].push(i);
    }
    let mut found: Vec<Vec<usize>> = members.into_iter().filter(|m| m.len() > 1).collect();
    found.sort();
    found
}

/// All nodes in the order in which a depth-first search is done with them.
fn left_in_order(n: usize, edges: &[Vec<usize>]) -> Vec<usize> {
    let (mut seen, mut order) = (vec![false; n], Vec::with_capacity(n));
    for root in 0..n {
        // A node and how many of its edges were followed: no recursion, lists may be long.
        let mut path = Vec::new();
        if !std::mem::replace(&mut seen[root], true) {
            path.push((root, 0));
        }
        while let Some((i, followed)) = path.last_mut() {
            match edges[*i].get(*followed) {
                Some(next) => {
                    *followed += 1;
                    if !std::mem::replace(&mut seen[*next], true) {
                        path.push((*next, 0));
                    }
                }
                None => {
                    order.push(*i);
                    path.pop();
                }
            }
        }
    }
    order
}
