"""The offline store: snapshot files, the quality gate before them, the quarantine beside them."""
