acl_default_policy = "allow"
acl_datacenter     = "dc1"
acl_token          = "anonymous"
service {
  name = "web"
  port = 8080
}
