"""What people ask about the store: status, doctor, catalogue."""
