"""Campaigns: shards of work, done by this process, others or a cluster, merged to one report."""

from pybpfvm.fuzz.campaign.conductor import Budget, Campaign, fuzz
from pybpfvm.fuzz.campaign.recipe import Recipe
from pybpfvm.fuzz.campaign.report import Report

__all__ = ["Budget", "Campaign", "Recipe", "Report", "fuzz"]
