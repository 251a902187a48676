//! Hostile and odd archives, archives of real programs, and archives that chance has changed.

mod case;
mod differential;
mod disagree;
mod extended;
mod header;
mod image;
mod links;
mod listing;
mod mutations;
mod numbers;
mod packed;
mod paths;
mod real;
mod sparse;
mod whiteouts;

use case::check;

#[test]
fn paths_stay_inside() {
    check(&paths::cases());
}

#[test]
fn links_and_replaced_kinds() {
    check(&links::cases());
}

#[test]
fn whiteouts_hide_what_is_below() {
    check(&whiteouts::cases());
}

#[test]
fn numbers_formats_and_ends() {
    check(&numbers::cases());
}

#[test]
fn extended_headers_and_attributes() {
    check(&extended::cases());
}

#[test]
fn sparse_files() {
    check(&sparse::cases());
}

#[test]
fn the_corpus_is_large_and_its_names_are_unique_in_each_part() {
    let parts = [
        paths::cases(),
        links::cases(),
        whiteouts::cases(),
        numbers::cases(),
        extended::cases(),
        sparse::cases(),
        packed::cases(),
    ];
    for part in &parts {
        let mut names: Vec<_> = part.iter().map(|case| case.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
    let counts: Vec<usize> = parts.iter().map(Vec::len).collect();
    println!("{counts:?}");
    assert!(counts.iter().sum::<usize>() >= 400, "{counts:?}");
}
