//! What one statement takes away.

use std::collections::BTreeSet;

use sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, AlterTypeOperation, ColumnDef, ColumnOption, DataType,
    ObjectType, RenameTableNameKind, Statement,
};

type Found = Vec<(&'static str, String)>;

/// `made` are tables of this release's own, by name: nobody else knows them.
pub(crate) fn judge(statement: &Statement, made: &mut BTreeSet<String>) -> Found {
    match statement {
        Statement::CreateTable(table) => {
            made.insert(key(&table.name));
            Vec::new()
        }
        Statement::Drop { object_type, names, .. } => {
            let Some((code, what)) = dropped(object_type) else { return Vec::new() };
            let names = names.iter().filter(|name| *object_type != ObjectType::Table || !made.contains(&key(name)));
            names.map(|name| (code, format!("drops {what} {name}, which the release before may still use"))).collect()
        }
        Statement::Truncate(truncate) => truncate
            .table_names
            .iter()
            .filter(|table| !made.contains(&key(&table.name)))
            .map(|table| ("truncate", format!("empties table {}; a rollback does not bring the rows back", table.name)))
            .collect(),
        Statement::AlterTable(table) if !made.contains(&key(&table.name)) => {
            table.operations.iter().filter_map(|operation| altered(table, operation)).collect()
        }
        // The table has another name from here on.
        Statement::AlterTable(table) => {
            for operation in &table.operations {
                if let AlterTableOperation::RenameTable { table_name } = operation {
                    made.insert(key(new_name(table_name)));
                }
            }
            Vec::new()
        }
        Statement::AlterType(of) => match &of.operation {
            AlterTypeOperation::Rename(_) => vec![("rename", format!("renames type {}", of.name))],
            AlterTypeOperation::RenameValue(_) => vec![("rename", format!("renames a value of type {}", of.name))],
            AlterTypeOperation::AddValue(_) => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Quotes and letters' case aside.
fn key(name: &impl ToString) -> String {
    name.to_string().replace(['"', '`', '[', ']'], "").to_lowercase()
}

fn new_name(name: &RenameTableNameKind) -> &sqlparser::ast::ObjectName {
    match name {
        RenameTableNameKind::As(name) | RenameTableNameKind::To(name) => name,
    }
}

fn dropped(object: &ObjectType) -> Option<(&'static str, &'static str)> {
    match object {
        ObjectType::Table => Some(("drop-table", "table")),
        ObjectType::View | ObjectType::MaterializedView => Some(("drop-view", "view")),
        ObjectType::Schema => Some(("drop-schema", "schema")),
        ObjectType::Database => Some(("drop-database", "database")),
        ObjectType::Sequence => Some(("drop-sequence", "sequence")),
        ObjectType::Type => Some(("drop-type", "type")),
        _ => None,
    }
}

fn altered(table: &AlterTable, operation: &AlterTableOperation) -> Option<(&'static str, String)> {
    let name = &table.name;
    match operation {
        AlterTableOperation::DropColumn { column_names, .. } => {
            let columns: Vec<String> = column_names.iter().map(ToString::to_string).collect();
            Some((
                "drop-column",
                format!("drops column {} of {name}, which the release before may still use", columns.join(", ")),
            ))
        }
        AlterTableOperation::RenameColumn { old_column_name, new_column_name } => Some((
            "rename",
            format!(
                "renames column {old_column_name} of {name} to {new_column_name}; the release before knows the old name"
            ),
        )),
        AlterTableOperation::RenameTable { table_name } => {
            let to = new_name(table_name);
            Some(("rename", format!("renames table {name} to {to}; the release before knows the old name")))
        }
        AlterTableOperation::AddColumn { column_def, .. } if needs_value(column_def) => Some((
            "not-null",
            format!(
                "adds column {} to {name} as NOT NULL without a default; rows that the release before writes are refused",
                column_def.name
            ),
        )),
        AlterTableOperation::AlterColumn { column_name, op } => match op {
            AlterColumnOperation::SetNotNull => Some((
                "not-null",
                format!(
                    "makes column {column_name} of {name} NOT NULL; rows that the release before writes may be refused"
                ),
            )),
            AlterColumnOperation::SetDataType { data_type, .. } => Some((
                "change-type",
                format!(
                    "changes the type of column {column_name} of {name} to {data_type}; the table may be rewritten under a lock, and the release before knows the old type"
                ),
            )),
            _ => None,
        },
        _ => None,
    }
}

fn needs_value(column: &ColumnDef) -> bool {
    let has = |wanted: fn(&ColumnOption) -> bool| column.options.iter().any(|option| wanted(&option.option));
    let required = has(|option| matches!(option, ColumnOption::NotNull | ColumnOption::PrimaryKey(_)));
    let filled = has(|option| {
        matches!(option, ColumnOption::Default(_) | ColumnOption::Generated { .. } | ColumnOption::Identity(_))
    });
    required && !filled && !is_serial(&column.data_type)
}

/// Types that bring a default with them.
fn is_serial(data_type: &DataType) -> bool {
    data_type.to_string().to_lowercase().contains("serial")
}
