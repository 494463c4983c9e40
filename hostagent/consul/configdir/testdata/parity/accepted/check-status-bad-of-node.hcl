check {
  name   = "node"
  ttl    = "10s"
  status = "good"
}
