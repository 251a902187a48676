//! Users of the guest, from its own files: a static program has no NSS.

use std::fs;

/// Who a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// A user by name or number, with another group after a colon; root when none is named.
pub(crate) fn find(wanted: Option<&str>) -> Result<User, String> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    find_in(&passwd, &group, wanted.unwrap_or("root"))
}

/// A group by name or number.
fn group_in(group: &str, wanted: &str) -> Result<u32, String> {
    let lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let named = lines.filter(|fields| fields.len() >= 3).find(|fields| fields[0] == wanted);
    let number = named.map_or(wanted, |fields| fields[2]).parse();
    number.map_err(|_| format!("there is no group \"{wanted}\" in the guest"))
}

fn find_in(passwd: &str, group: &str, wanted: &str) -> Result<User, String> {
    if let Some((user, other)) = wanted.split_once(':') {
        let mut user = find_in(passwd, group, user)?;
        user.gid = group_in(group, other)?;
        user.groups = vec![user.gid];
        return Ok(user);
    }
    let number: Option<u32> = wanted.parse().ok();
    let lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines
        .filter(|fields| fields.len() >= 7)
        .find(|fields| fields[0] == wanted || number.is_some_and(|n| fields[2].parse() == Ok(n)));
    let (name, uid, gid, home, shell) = match (found, number) {
        (Some(f), _) => {
            let id =
                |text: &str| text.parse().map_err(|_| format!("/etc/passwd is broken at {wanted}"));
            (f[0].to_string(), id(f[2])?, id(f[3])?, f[5].to_string(), f[6].to_string())
        }
        (None, Some(id)) => (id.to_string(), id, id, "/".to_string(), String::new()),
        (None, None) if wanted == "root" => {
            ("root".to_string(), 0, 0, "/".to_string(), String::new())
        }
        (None, None) => return Err(format!("there is no user \"{wanted}\" in the guest")),
    };
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, id, members] = fields[..]
            && members.split(',').any(|member| member == name)
            && let Ok(id) = id.parse()
            && !groups.contains(&id)
        {
            groups.push(id);
        }
    }
    let shell = if shell.is_empty() { "/bin/sh".to_string() } else { shell };
    Ok(User { name, uid, gid, groups, home, shell })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\ndev:x:1000:1000::/home/dev:\nbroken\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:dev,other\ndev:x:1000:\nempty:x:9:\n";

    #[test]
    fn users_by_name_and_number() {
        let dev = find_in(PASSWD, GROUP, "dev").expect("known");
        assert_eq!((dev.uid, dev.gid, dev.groups.as_slice()), (1000, 1000, &[1000, 27][..]));
        assert_eq!((dev.home.as_str(), dev.shell.as_str()), ("/home/dev", "/bin/sh"));
        assert_eq!(find_in(PASSWD, GROUP, "1000").expect("known").name, "dev");
        assert_eq!(find_in(PASSWD, GROUP, "4242").expect("a number needs no entry").uid, 4242);
        assert_eq!(find_in("", "", "root").expect("root is always there").uid, 0);
        assert!(find_in(PASSWD, GROUP, "nobody-here").is_err());
        let other = find_in(PASSWD, GROUP, "dev:sudo").expect("known");
        assert_eq!((other.uid, other.gid, other.groups.as_slice()), (1000, 27, &[27][..]));
        assert_eq!(find_in(PASSWD, GROUP, "7:8").map(|user| (user.uid, user.gid)), Ok((7, 8)));
        assert!(find_in(PASSWD, GROUP, "dev:nothing").is_err());
    }
}
