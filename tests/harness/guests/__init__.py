"""Guests with other kernels: what is planned for them, what they must offer, and what they tell."""
