"""The command line: what is understood, and what is refused with which words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privbind.errors import UsageError
from privbind.grant.policy import PolicyError
from privbind.request.options import parse


def services(name: str, protocol: str) -> int:
    """No services at all."""
    raise OSError(name, protocol)


def test_options_end_at_the_first_other_word() -> None:
    """The command's own options need no --."""
    options = parse(["-u", "web", "-Gv", "server", "-v", "--", "-x"])
    assert options.command == ["server", "-v", "--", "-x"]
    assert options.user == "web"
    assert options.no_groups
    assert options.verbose
    assert not options.dry_run


def test_two_dashes_end_the_options() -> None:
    """What follows is the command, whatever it looks like."""
    assert parse(["-uweb", "--", "-server"]).command == ["-server"]
    assert parse(["-uweb", "-"]).command == ["-"]


@pytest.mark.parametrize(
    "words",
    [
        ["-uweb", "-gstaff", "-n3", "-atcp:80", "-audp:53", "-r80", "--via=preload"],
        ["-u", "web", "-g", "staff", "-n", "3", "-a", "tcp:80,udp:53", "-r", "80", "--via", "preload"],
        [
            "--user=web",
            "--group",
            "staff",
            "--binds=3",
            "-atcp:80",
            "--allow=udp:53",
            "--reuse-port=80",
            "--via=preload",
        ],
    ],
)
def test_each_way_to_write_an_option(words: list[str]) -> None:
    """Joined, apart, long with and without =."""
    options = parse([*words, "--dry-run", "true"])
    assert (options.user, options.group, options.via, options.dry_run) == ("web", "staff", "preload", True)
    assert options.limit() == 3
    assert str(options.policy(services)) == "tcp:80,udp:53"
    assert [str(ports) for ports in options.reuse_ports(services)] == ["80"]


def test_the_last_of_a_repeated_option_counts() -> None:
    """But rules add up."""
    options = parse(["-ua", "-ub", "-n1", "-n2", "true"])
    assert options.user == "b"
    assert options.limit() == 2


@pytest.mark.parametrize(("text", "user", "group"), [("web:staff", "web", "staff"), ("1000:50", "1000", "50")])
def test_user_and_group_in_one_word(text: str, user: str, group: str) -> None:
    """As gosu, su-exec and chown take them; what is behind the first colon is the group."""
    options = parse(["-u", text, "true"])
    assert (options.user, options.group) == (user, group)
    assert parse([f"--user={text}:x", "true"]).group == f"{group}:x"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-v"], (True, False)),
        (["-vv"], (True, True)),
        (["-v", "-Gv"], (True, True)),
        (["--verbose", "--verbose", "-v"], (True, True)),
        ([], (False, False)),
    ],
)
def test_how_much_is_told(words: list[str], expected: tuple[bool, bool]) -> None:
    """Once the story, twice the programs as well."""
    options = parse(["-uweb", *words, "true", "-v"])
    assert (options.verbose, options.very_verbose) == expected
    assert not options.quiet
    assert parse(["-uweb", "-q", "true"]).quiet


def test_whether_two_dashes_stood_in_front_of_the_command() -> None:
    """Those of the command do not count."""
    assert parse(["-uweb", "--", "true"]).separated
    assert not parse(["-uweb", "true", "--", "x"]).separated


def test_a_library_implies_preload() -> None:
    """-l alone, or with the same mechanism."""
    assert parse(["-ua", "-lx.so", "true"]).via == "preload"
    assert parse(["-ua", "-lx.so", "--via=preload", "true"]).via == "preload"
    assert parse(["-ua", "true"]).via == "auto"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "no command given"),
        (["-a80"], "no command given"),
        (["-n1", "true"], "no user given"),
        (["--via=bpf", "true"], "no user given"),
        (["--set-home", "true"], "no user given"),
        (["-u"], "-u needs a value"),
        (["--user"], "--user needs a value"),
        (["-uweb"], "no command given"),
        (["-uweb", "--"], "no command given"),
        (["-uweb", "-x", "true"], "unknown option -x"),
        (["-Gxv", "-uweb", "true"], "unknown option -x"),
        (["-uweb", "--nosuch", "true"], "unknown option --nosuch"),
        (["-uweb", "--verbose=1", "true"], "--verbose takes no value"),
        (["-uweb", "--via=magic", "true"], "unknown mechanism 'magic'"),
        (["-uweb", "--via=", "true"], "unknown mechanism ''"),
        (["-uweb", "-lx.so", "--via=bpf", "true"], "-l goes with --via preload"),
        (["-uweb", "-lx.so", "--via=auto", "true"], "-l goes with --via preload"),
        (["-uweb", "--json", "true"], "--json goes with --dry-run"),
        (["-uweb", "-qv", "true"], "-q and -v do not go together"),
        (["-uweb:", "true"], "'web:' names no group behind the colon"),
        (["-u:web", "true"], "':web' names no user before the colon"),
        (["-u", ":", "true"], "':' names no user"),
        (["-uweb:staff", "-gstaff", "true"], "names a group, and so does -g staff"),
        (["-user=web", "true"], "unknown option -user"),
        (["-uweb", "-a", "--", "true"], "needs a value, but '--' follows"),
    ],
)
def test_what_is_no_command_line(words: list[str], why: str) -> None:
    """The message says what is missing or wrong."""
    with pytest.raises(UsageError, match=why):
        parse(words)


def test_without_a_user_a_command_may_be_started_as_it_is() -> None:
    """With -a, -v and --dry-run, which mean something then; nothing else does."""
    options = parse(["-a80", "-v", "--dry-run", "true", "-u"])
    assert (options.user, options.command, options.verbose, options.dry_run) == (None, ["true", "-u"], True, True)
    for more in ("-gx", "-G", "-n1", "-r80", "-lx", "--via=auto", "--no-new-privs", "--set-home"):
        with pytest.raises(UsageError, match=r"^no user given"):
            parse([more, "-a80", "true"])
        assert parse([more, "-a80", "-uweb", "true"]).user == "web"


@pytest.mark.parametrize("text", ["3x", "", "-1", "4294967296", "x"])
def test_a_limit_is_a_whole_number(text: str) -> None:
    """-n takes 0 to 4294967295."""
    with pytest.raises(PolicyError, match="-n: "):
        parse(["-uweb", f"--binds={text}", "true"]).limit()


def test_help_needs_nothing_else() -> None:
    """-h and --version come before every other complaint."""
    assert parse(["-h"]).help
    assert parse(["--version"]).version
    assert parse(["--help", "--via=magic"]).help


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_words_are_options_or_a_usage_error(words: list[str]) -> None:
    """For all words: options come back, or UsageError is raised, never another error."""
    try:
        parse(words)
    except UsageError:
        pass
