"""Families of file formats, found by name: each module turns (card, folder) into a model that an Encoder can hold.

A module has `open_teacher(card, folder) -> nn.Module` and, where cards say more than every card does, `Options`.
"""
