"""Prints an audit in the terminal."""

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from loadtest.audit.finding import Audit, Finding
from loadtest.page.terminal import columns_of, make_table


def print_audit(audit: Audit, console: Console) -> None:
    """Print the findings with their sums, what was checked, and the verdict last."""
    console.print(Text.assemble(("Audit of ", "dim"), (audit.title, "bold"), (f"  {audit.file}", "dim")))
    for number, finding in enumerate(audit.findings, start=1):
        _print_finding(number, finding, console)
    console.print()
    rows = [(rule.rule, str(rule.checked) if rule.checked else "—", str(rule.findings)) for rule in audit.rules]
    styles = ["red" if rule.findings else "" for rule in audit.rules]
    columns = columns_of(("rule", "checked", "findings"), words=1)
    console.print(make_table(columns, rows, styles, box=None, header_style="dim", pad_edge=False))
    for note in audit.notes:
        console.print(Text(f"note: {note}", style="dim"))
    count = len(audit.findings)
    style = "bold red" if count else "bold green"
    checked = sum(rule.checked for rule in audit.rules)
    console.print(Text(f"{count} finding{'s' * (count != 1)} in {checked} checks", style=style))


def _print_finding(number: int, finding: Finding, console: Console) -> None:
    console.print()
    console.print(
        Text.assemble((f"{number:>2}  ", "bold"), (finding.row, "bold yellow"), (f"  {finding.rule}", "cyan"))
    )
    console.print(Padding(Text(finding.says), (0, 0, 0, 4), expand=False))
    for line in finding.sums:
        console.print(Padding(Text(line, style="dim"), (0, 0, 0, 6), expand=False))
    console.print(Padding(Text.assemble(("→ ", "bold green"), finding.instead), (0, 0, 0, 4), expand=False))
