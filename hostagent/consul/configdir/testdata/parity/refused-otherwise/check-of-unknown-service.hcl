# An agent that ran before may have the service in its data_dir.
check {
  name       = "of nobody"
  service_id = "nobody"
  ttl        = "10s"
}
