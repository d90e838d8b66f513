from flow_post import *
async def test_x(post):
    answer = await post.send(message())
    print(answer)
    await post.rest()
    print(await post.one())
