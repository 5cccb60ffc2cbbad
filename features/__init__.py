"""The feature views of dCMMS: each definition stands beside the SQL that extracts it."""
