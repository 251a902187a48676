//! A file as a line of `ls -l`, which clients show.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

/// Like a line of `ls -l`, which clients show (times in UTC).
pub(super) fn long_name(name: &OsStr, meta: &Metadata) -> Vec<u8> {
    let mode = meta.mode();
    let mut text = String::new();
    text.push(match mode & 0o170000 {
        0o040000 => 'd',
        0o120000 => 'l',
        0o020000 => 'c',
        0o060000 => 'b',
        0o010000 => 'p',
        0o140000 => 's',
        _ => '-',
    });
    for (shift, special, lower, upper) in
        [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')]
    {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => lower,
            (true, false) => upper,
        });
    }
    let (uid, gid, size) = (meta.uid(), meta.gid(), meta.size());
    text += &format!(" {:>4} {uid:<8} {gid:<8} {size:>8} {} ", meta.nlink(), date(meta.mtime()));
    let mut bytes = text.into_bytes();
    bytes.extend(name.as_bytes());
    bytes
}

/// "Jan  2 15:04", or "Jan  2  2006" if that is not within half a year.
fn date(time: i64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (time.div_euclid(86400), time.rem_euclid(86400));
    // Days to a date of the Gregorian calendar, years beginning in March.
    let day = days + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = year + era * 400 + i64::from(month >= 10);
    let month = MONTHS[((month + 2) % 12) as usize];
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs() as i64);
    if (now - 182 * 86400..=now).contains(&time) {
        format!("{month} {day:>2} {:02}:{:02}", second / 3600, second / 60 % 60)
    } else {
        format!("{month} {day:>2}  {year}")
    }
}
