acl {
  enabled        = true
  default_policy = "allow"
  tokens {
    agent = "11111111-1111-1111-1111-111111111111"
  }
}
service {
  name = "web"
  port = 8080
}
