service {
  name                = "web"
  port                = 8080
  enable_tag_override = true
  tags                = []
}
