"""Methods side by side: protocols, the comparison, the leaderboard and the pages made of results."""
