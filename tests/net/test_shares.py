"""Hosts and the domains they are below have their shares."""

# mypy: allow-untyped-calls

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from calledind.net.shares import Shares, owner_of


class SharesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.shares: Shares[int] = Shares(lambda host, item: self.begun.append((host, item)), in_all=16, per_host=3)

    def test_made_up_names(self) -> None:
        """Any number of hosts below one domain have a quarter of it all; another's begins at once."""
        for item in range(50):
            self.shares.enter(f"h{item}.evil.test", item)
        self.assertEqual(len(self.begun), 4)
        self.shares.enter("a.good.test", 50)
        self.assertEqual(self.begun[4:], [("a.good.test", 50)])
        self.assertEqual(len(self.shares), 46)

    def test_one_host_of_a_domain(self) -> None:
        """A host with many waiting does not hold up another of its domain."""
        for item in range(50):
            self.shares.enter("slow.cloud.test", item)
        self.assertEqual(len(self.begun), 3)
        self.shares.enter("fast.cloud.test", 50)
        self.assertEqual(self.begun[3:], [("fast.cloud.test", 50)])
        self.shares.leave("slow.cloud.test")
        self.assertEqual(self.begun[4:], [("slow.cloud.test", 3)])

    def test_withdraw(self) -> None:
        """Who waits can be taken back, wherever he waits, and his place is another's; who has begun can't."""
        for item in range(5):
            self.shares.enter(f"h{item}.evil.test", item)
        self.assertFalse(self.shares.withdraw("h0.evil.test", 0))
        self.assertTrue(self.shares.withdraw("h4.evil.test", 4))
        for item in range(10, 15):
            self.shares.enter("h5.evil.test", item)
        self.assertTrue(self.shares.withdraw("h5.evil.test", 14))
        for item in range(4):
            self.shares.leave(f"h{item}.evil.test")
        self.assertEqual(self.begun[4:], [("h5.evil.test", item) for item in (10, 11, 12)])
        self.assertEqual(len(self.shares), 1)

    def test_clear(self) -> None:
        """After all that wait were taken back, there is room for new ones as before."""
        for item in range(50):
            self.shares.enter(f"h{item % 7}.evil.test", item)
        self.shares.clear()
        self.assertEqual(len(self.shares), 0)
        for host, _ in self.begun[:]:
            self.shares.leave(host)
        self.begun.clear()
        for item in range(3):
            self.shares.enter("h6.evil.test", item)
        self.assertEqual(len(self.begun), 3)

    @settings(deadline=None, derandomize=True)
    @given(st.lists(st.tuples(st.sampled_from(("enter", "leave", "withdraw")), st.integers(0, 11))))
    def test_any_order(self, steps: list[tuple[str, int]]) -> None:
        """Whatever comes and goes: no bound is passed, each begins once, and in the end nobody is left waiting."""
        begun: list[tuple[str, int]] = []
        shares: Shares[int] = Shares(lambda host, item: begun.append((host, item)), in_all=4, per_host=1)
        hosts = ("a.x.test", "b.x.test", "a.y.test", "b.y.test")
        over: set[int] = set()
        gone: set[int] = set()
        entered: dict[int, str] = {}
        for what, number in steps:
            running = [(host, item) for host, item in begun if item not in over]
            if what == "enter":
                item = len(entered)
                entered[item] = hosts[number % 4]
                shares.enter(entered[item], item)
            elif what == "leave" and running:
                host, item = running[number % len(running)]
                over.add(item)
                shares.leave(host)
            elif what == "withdraw" and number in entered and shares.withdraw(entered[number], number):
                gone.add(number)
            running_hosts = [host for host, item in begun if item not in over]
            self.assertLessEqual(len(running_hosts), 4)
            self.assertEqual(len(set(running_hosts)), len(running_hosts))
        while running := [(host, item) for host, item in begun if item not in over]:
            host, item = running[0]
            over.add(item)
            shares.leave(host)
        self.assertEqual(sorted(item for _, item in begun), sorted(entered.keys() - gone))
        self.assertEqual(len(shares), 0)

    def test_owners(self) -> None:
        """What one owner has all of: a domain, one IPv4 address, a network of 64 bits of IPv6."""
        for host, owner in (
            ("a.b.example.com", "example.com"),
            ("a.example.co.uk", "example.co.uk"),
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.2.1", "198.51.2.1"),
            ("2001:db8::1:2", "2001:db8::/64"),
            ("", ""),
        ):
            self.assertEqual(owner_of(host), owner)
