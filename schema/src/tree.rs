//! The tree that both fronts lower to: nodes with arguments, properties and children, each with its place.

/// Byte offsets into the file.
pub(crate) type Span = std::ops::Range<usize>;

/// One value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value {
    pub(crate) data: Data,
    pub(crate) span: Span,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    Text(String),
    Int(i128),
    /// A kind that no field takes, by its name.
    Other(&'static str),
}

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) args: Vec<Value>,
    pub(crate) props: Vec<(String, Span, Value)>,
    pub(crate) children: Vec<Node>,
}

impl Node {
    pub(crate) fn new(name: impl Into<String>, span: Span) -> Self {
        Self { name: name.into(), span, args: Vec::new(), props: Vec::new(), children: Vec::new() }
    }

    /// The children of this name, in file order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The property of this name.
    pub(crate) fn prop(&self, name: &str) -> Option<&Value> {
        self.props.iter().find(|(key, _, _)| key == name).map(|(_, _, value)| value)
    }
}
