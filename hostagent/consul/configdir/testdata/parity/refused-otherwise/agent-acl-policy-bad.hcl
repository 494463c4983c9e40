acl {
  enabled        = true
  default_policy = "maybe"
}
