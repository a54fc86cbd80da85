"""All fields of a configuration as a table, for --help-fields."""

from jaxsep.config.schema import FIELDS, Config, about, flatten, legal_values


def field_table(config: Config) -> str:
    """Every field on a line with its value in config, unit and bounds; its meaning below."""
    values = flatten(config.model_dump())
    rows = [("FIELD", "VALUE", "UNIT", "LEGAL", "")] + [
        (name, repr(values[name]), about(info)["unit"], legal_values(info), info.description or "")
        for name, info in FIELDS.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[3]]))
        if row[4]:
            lines.append(f"    {row[4]}")
    return "\n".join(lines)
