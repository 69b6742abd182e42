"""Families: each is an algorithm that leaves open what differs between papers."""
