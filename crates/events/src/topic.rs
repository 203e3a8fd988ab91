//! Topics: `/tasks/exit`.

use davit_types::ContainerId;

use crate::{Error, TopicFault};

/// Checks that `topic` is a slash followed by identifiers joined by slashes
/// (containerd's `validateTopic`).
pub(crate) fn validate(topic: &str) -> Result<(), Error> {
    check(topic).map_err(|fault| Error::Topic { topic: topic.to_owned(), fault })
}

fn check(topic: &str) -> Result<(), TopicFault> {
    if topic.is_empty() {
        return Err(TopicFault::Empty);
    }
    let path = topic.strip_prefix('/').ok_or(TopicFault::Relative)?;
    if path.is_empty() {
        return Err(TopicFault::NoComponent);
    }
    for component in path.split('/') {
        // Topics are made of identifiers; which kind of name it is does not
        // matter, the rule is the same for all.
        ContainerId::new(component)
            .map_err(|fault| TopicFault::Component { component: component.to_owned(), fault })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_paths_of_identifiers() {
        for topic in ["/tasks/exit", "/a", "/tasks/exec-added", "/k8s.io/x_y"] {
            assert_eq!(validate(topic), Ok(()), "{topic}");
        }
    }

    #[test]
    fn refuses_with_containerds_words() {
        for (topic, words) in [
            ("", "envelope topic \"\": must not be empty: invalid argument"),
            ("tasks", "envelope topic \"tasks\": must start with '/': invalid argument"),
            ("/", "envelope topic \"/\": must have at least one component: invalid argument"),
            (
                "/tasks/",
                "envelope topic \"/tasks/\": failed validation on component \"\": \
                 identifier must not be empty: invalid argument",
            ),
            (
                "/../x",
                "envelope topic \"/../x\": failed validation on component \"..\": identifier \
                 \"..\" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument",
            ),
        ] {
            assert_eq!(validate(topic).unwrap_err().to_string(), words);
        }
    }
}
